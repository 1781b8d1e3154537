//! Links the runner as a static program of Linux.

fn main() {
    println!("cargo:rerun-if-changed=runner.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        println!("cargo:rustc-link-arg-bins=-T{here}/runner.ld");
    }
}
