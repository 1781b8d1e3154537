//! Links with mobi-rtos's linker script, which that library's build puts where the linker looks.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        println!("cargo:rustc-link-arg-bins=-Tmobi-rtos.ld");
    }
}
