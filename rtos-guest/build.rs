//! Puts the linker script `mobi-rtos.ld` where the linker of every crate that depends on this one finds it.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=mobi-rtos.ld");
    if env::var("CARGO_CFG_TARGET_OS")? == "none" {
        let out = PathBuf::from(env::var("OUT_DIR")?);
        fs::copy("mobi-rtos.ld", out.join("mobi-rtos.ld"))?;
        println!("cargo:rustc-link-search={}", out.display());
        println!("cargo:rustc-link-arg-bins=-Tmobi-rtos.ld");
    }
    Ok(())
}
