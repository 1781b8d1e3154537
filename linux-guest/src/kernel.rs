//! The arm64 kernel image (Linux, Documentation/arch/arm64/booting.rst, section 4).

use anyhow::{Result, bail, ensure};

/// Checks that `image` is a whole, uncompressed arm64 `Image`.
///
/// # Errors
/// What it is instead, and how to get at the Image in it.
pub fn check_kernel(image: &[u8]) -> Result<()> {
    if image.starts_with(&[0x1f, 0x8b]) {
        bail!("a gzipped kernel, where an uncompressed Image is needed: unpack it with gunzip");
    }
    if image.get(4..8) == Some(b"zimg") {
        bail!("a self-decompressing EFI kernel (vmlinuz.efi), where an uncompressed Image is needed");
    }
    if image.starts_with(b"\x7fELF") {
        bail!("an ELF file (vmlinux), where an Image is needed: make one with objcopy -O binary");
    }
    ensure!(image.get(56..60) == Some(b"ARM\x64"), "not an arm64 Image: no magic number at offset 56");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_by_its_magic_number() {
        let mut image = [0; 64];
        assert!(check_kernel(&image).is_err());
        image[56..60].copy_from_slice(b"ARM\x64");
        assert!(check_kernel(&image).is_ok());
        assert!(check_kernel(&image[..59]).is_err());
    }

    #[test]
    fn other_kernel_formats_are_named() {
        let error = |image: &[u8]| check_kernel(image).unwrap_err().to_string();
        assert!(error(&[0x1f, 0x8b, 8, 0]).contains("gunzip"));
        assert!(error(b"MZ\0\0zimg").contains("EFI"));
        assert!(error(b"\x7fELF\x02\x01").contains("vmlinux"));
    }
}
