//! From the linker's ELF file to the flat image that boot loaders start.

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSegment};

/// Where an arm64 `Image` has its magic number, and what it is (Linux, Documentation/arch/arm64/booting.rst, section 4).
const MAGIC_OFFSET: usize = 56;
const MAGIC: &[u8] = b"ARM\x64";
/// Far above any EL2 image: a wild address must not become gigabytes of zeroes.
const MAX_LEN: u64 = 64 << 20;

/// The bytes of an arm64 `Image`: the loadable segments of `elf`, which is linked at address 0, without trailing zeroes
/// that only memory has.
///
/// # Errors
/// If `elf` is no ELF file, or what it holds does not start as an `Image` does.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    flatten_at(elf, 0)
}

/// As [`flatten`], of a program that is linked at `base`.
///
/// # Errors
/// As there.
pub fn flatten_at(elf: &[u8], base: u64) -> Result<Vec<u8>> {
    let file = object::File::parse(elf).context("not an ELF file")?;
    let mut image = Vec::new();
    for segment in file.segments() {
        let data = segment.data().context("a segment lies outside the file")?;
        let start = segment.address().wrapping_sub(base);
        let end = start.saturating_add(data.len() as u64);
        ensure!(end <= MAX_LEN, "a segment ends at {end:#x}: is the image linked at {base:#x}?");
        let (start, end) = (start as usize, end as usize);
        image.resize(image.len().max(end), 0);
        image[start..end].copy_from_slice(data);
    }
    let magic = image.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len());
    ensure!(magic == Some(MAGIC), "no arm64 image header at its start");
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian ELF64 file for AArch64 with these loadable segments: address, bytes, size in memory.
    fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        const HEADER: u64 = 64;
        const ENTRY: u64 = 56;
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2, 0, 0xB7, 0, 1, 0, 0, 0]);
        file.extend([0, HEADER, 0].map(u64::to_le_bytes).concat());
        // Flags; then the sizes and counts of headers, two bytes each.
        file.extend(0u32.to_le_bytes());
        file.extend(
            [HEADER, ENTRY, segments.len() as u64, 0, 0, 0].map(|n| (n as u16).to_le_bytes()).concat(),
        );
        let mut offset = HEADER + ENTRY * segments.len() as u64;
        for (address, data, memory) in segments {
            file.extend([1u32.to_le_bytes(), 7u32.to_le_bytes()].concat());
            let len = data.len() as u64;
            file.extend([offset, *address, *address, len, *memory, 1].map(u64::to_le_bytes).concat());
            offset += len;
        }
        segments.iter().for_each(|(_, data, _)| file.extend_from_slice(data));
        file
    }

    fn header() -> Vec<u8> {
        let mut header = vec![1; 64];
        header[MAGIC_OFFSET..MAGIC_OFFSET + 4].copy_from_slice(MAGIC);
        header
    }

    #[test]
    fn segments_lie_at_their_addresses_and_bss_is_left_out() {
        let image = flatten(&elf(&[(0, &header(), 64), (100, b"data", 4096)])).unwrap();
        assert_eq!(image.len(), 104);
        assert_eq!(&image[..64], header());
        assert_eq!(&image[64..100], [0; 36]);
        assert_eq!(&image[100..], b"data");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(flatten(b"#!/bin/sh").unwrap_err().to_string(), "not an ELF file");
        let elsewhere = elf(&[(0x4008_0000, &header(), 64)]);
        assert!(flatten(&elsewhere).unwrap_err().to_string().contains("is the image linked at 0x0?"));
        assert_eq!(flatten_at(&elsewhere, 0x4008_0000).unwrap(), header());
        let bare = elf(&[(0, &[0; 64], 64)]);
        assert_eq!(flatten(&bare).unwrap_err().to_string(), "no arm64 image header at its start");
    }
}
