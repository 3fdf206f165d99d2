//! `watari-node`
fn main() {}
