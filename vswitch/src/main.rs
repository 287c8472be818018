//! The switch process.
fn main() {}
