//! The bundle that a machine is compiled into: other tools read it, equal images are stored once, and equal input
//! gives equal bytes.

mod common;

use mobivmm_machines::Machine;
use std::path::PathBuf;
use std::process::Command;

const TWO_VMS: &str = r#"
[machine]
name = "twins"

[[vm]]
name = "one"
kernel = "Image"
initrd = "guest:ramdisk"
memory = "16MiB"

[[vm]]
name = "two"
kernel = "Image"
initrd = "guest:ramdisk"
memory = "16MiB"

[[vm]]
name = "raw"
kernel = { raw = "blob.bin", load = 0x4008_0000, entry = 0x4008_0000 }
memory = "16MiB"
"#;

fn compile(text: &str) -> Vec<u8> {
    let dir = common::guests();
    let ramdisk = dir.path().join("initrd");
    let resolver = |package: &str, file: &str| {
        assert_eq!((package, file), ("guest", "ramdisk"));
        anyhow::Ok(ramdisk.clone())
    };
    Machine::load(&common::machine_file(dir.path(), text)).unwrap().compile(&resolver).unwrap()
}

/// The path of U-Boot's `dumpimage`, if it is installed or `DUMPIMAGE` names it.
fn dumpimage() -> Option<PathBuf> {
    let path = std::env::var_os("DUMPIMAGE").map_or_else(|| "dumpimage".into(), PathBuf::from);
    Command::new(&path).arg("-V").output().is_ok().then_some(path)
}

#[test]
fn equal_images_are_stored_once() {
    let bundle = compile(TWO_VMS);
    // A page or more of device tree, then Image (64 KiB), ramdisk (5000 bytes) and raw (100 bytes), in pages.
    let data = 0x1_0000 + 2 * 4096 + 4096;
    assert_eq!((bundle.len() - data) % 4096, 0);
    assert!(bundle.len() - data <= 2 * 4096, "{}", bundle.len());
}

#[test]
fn equal_input_gives_equal_bytes() {
    assert_eq!(compile(TWO_VMS), compile(TWO_VMS));
}

#[test]
fn dumpimage_lists_the_images_and_extracts_them() {
    let Some(dumpimage) = dumpimage() else {
        eprintln!("skipped: no dumpimage here (Debian: u-boot-tools)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let [itb, extracted] = ["m.itb", "image"].map(|name| dir.path().join(name));
    std::fs::write(&itb, compile(TWO_VMS)).unwrap();

    let output = Command::new(&dumpimage).arg("-l").arg(&itb).output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{list}");
    let expected = [
        "FIT description: twins",
        "Image 0 (kernel-1)",
        "Image 1 (ramdisk-2)",
        "Image 2 (kernel-3)",
        "Type:         Kernel Image",
        "Data Size:    65536 Bytes",
        "Hash algo:    sha256",
        "Default Configuration: 'machine'",
    ];
    for line in expected {
        assert!(list.contains(line), "{line}\n{list}");
    }

    let mut extract = Command::new(&dumpimage);
    extract.args(["-T", "flat_dt", "-p", "1", "-o"]).arg(&extracted).arg(&itb);
    assert!(extract.output().unwrap().status.success());
    assert_eq!(std::fs::read(&extracted).unwrap(), [7; 5000]);
}
