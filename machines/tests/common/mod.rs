//! Made-up guests for the tests.

use std::path::{Path, PathBuf};

/// An arm64 `Image` of `len` bytes that claims `image_size` bytes of memory.
pub fn arm64_image(len: usize, image_size: u64) -> Vec<u8> {
    let mut image = vec![0x5a; len];
    image[8..16].copy_from_slice(&0_u64.to_le_bytes());
    image[16..24].copy_from_slice(&image_size.to_le_bytes());
    image[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image
}

/// A directory with `Image` (64 KiB, 1 MiB in memory), `initrd` (5000 bytes) and `blob.bin` (100 bytes).
pub fn guests() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Image"), arm64_image(0x1_0000, 1 << 20)).unwrap();
    std::fs::write(dir.path().join("initrd"), [7; 5000]).unwrap();
    std::fs::write(dir.path().join("blob.bin"), [9; 100]).unwrap();
    dir
}

/// Writes a machine file into `dir`.
pub fn machine_file(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("machine.toml");
    std::fs::write(&path, text).unwrap();
    path
}
