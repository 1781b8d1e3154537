//! The register faces and list registers under arbitrary accesses: see `tests/vgic/bytes.rs`.
#![no_main]

#[path = "../../tests/vgic/bytes.rs"]
mod bytes;
#[path = "../../tests/vgic/hw.rs"]
mod hw;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bytes::play(data));
