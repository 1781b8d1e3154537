//! Links the bench guest for RAM at 0x4000_0000, which QEMU's `virt`, MobiVMM, Xen and KVM's users give their guests.

fn main() {
    println!("cargo:rerun-if-changed=guest.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        println!("cargo:rustc-link-arg-bins=-T{here}/guest.ld");
    }
}
