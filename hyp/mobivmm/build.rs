//! Links the EL2 image: position-independent, by `image.ld`. Records the build id that the first line of the log shows.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=image.ld");
    println!("cargo:rerun-if-changed=../../.git/HEAD");
    println!("cargo:rerun-if-changed=../../.git/index");
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let build = match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unversioned".to_owned(),
    };
    println!("cargo:rustc-env=MOBIVMM_BUILD={build}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        for argument in [
            format!("-T{here}/image.ld"),
            "-pie".into(),
            "--no-dynamic-linker".into(),
            // core is compiled for static linking: its constants' pointers lie in read-only sections and are relocated too.
            "-znotext".into(),
            "-znorelro".into(),
            "-zmax-page-size=4096".into(),
            "--build-id=none".into(),
        ] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
