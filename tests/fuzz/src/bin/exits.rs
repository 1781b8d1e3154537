//! Exits with arbitrary syndromes, registers and memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mobivmm_fuzz::exits(data));
