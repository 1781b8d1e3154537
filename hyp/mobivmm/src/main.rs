//! The EL2 program.
fn main() {}
