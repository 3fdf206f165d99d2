//! `watari`
fn main() {}
