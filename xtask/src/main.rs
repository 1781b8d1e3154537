//! The command line: `cargo xtask setup|run|test|machine`.

fn main() {}
