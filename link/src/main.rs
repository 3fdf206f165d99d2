//! `watari-link`
fn main() {}
