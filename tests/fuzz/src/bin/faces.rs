//! The vGIC's register faces and list registers under arbitrary accesses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mobivmm_fuzz::faces(data));
