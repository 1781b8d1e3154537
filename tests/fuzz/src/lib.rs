//! What a guest can do to EL2's pure crates, as strings of bytes for a fuzzer.
//!
//! `cargo test` plays random strings for a moment. A fuzzer that follows the code's branches finds more; stable Rust is enough for
//! it:
//!
//! ```text
//! RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table" \
//!     cargo run --package mobivmm-fuzz --features libfuzzer --target-dir target/fuzz --bin exits -- -max_total_time=60
//! ```
#![forbid(unsafe_code)]

#[path = "../../../hyp/vgic/tests/vgic/bytes.rs"]
mod bytes;
mod exits;
#[path = "../../../hyp/vgic/tests/vgic/hw.rs"]
mod hw;

pub use bytes::play as faces;
pub use exits::play as exits;
