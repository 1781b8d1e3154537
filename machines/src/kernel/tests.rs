use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;

const BASE: u64 = 0x4000_0000;
const MEMORY: Memory = Memory { base: BASE, size: 16 << 20, identity: false };

fn arm64_image(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut image = vec![0x5a; 0x100];
    image[8..16].copy_from_slice(&text_offset.to_le_bytes());
    image[16..24].copy_from_slice(&image_size.to_le_bytes());
    image[24..32].copy_from_slice(&flags.to_le_bytes());
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image
}

/// A loadable segment: virtual and physical address, bytes, size in memory.
struct Segment<'a>(u64, u64, &'a [u8], u64);

/// An ELF64 executable (System V ABI, gABI 4.1, "Object Files") of these segments.
fn elf_file(entry: u64, segments: &[Segment<'_>]) -> Vec<u8> {
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 183, 0, 1, 0, 0, 0]);
    file.extend(entry.to_le_bytes());
    file.extend((HEADER as u64).to_le_bytes());
    file.extend([0; 12]);
    for half in [HEADER, PROGRAM_HEADER, segments.len(), 64, 0, 0] {
        file.extend((half as u16).to_le_bytes());
    }
    let mut data = Vec::new();
    for Segment(vaddr, paddr, bytes, mem_size) in segments {
        let offset = HEADER + PROGRAM_HEADER * segments.len() + data.len();
        file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
        for word in [offset as u64, *vaddr, *paddr, bytes.len() as u64, *mem_size, 8] {
            file.extend(word.to_le_bytes());
        }
        data.extend_from_slice(bytes);
    }
    file.extend(data);
    file
}

#[track_caller]
fn refused(file: Vec<u8>, reason: &str) {
    let error = flatten(file, None, &MEMORY).unwrap_err();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn arm64_image_goes_text_offset_behind_the_base() {
    let image = arm64_image(0x8_0000, 0x2000, 0xa);
    let flat = flatten(image.clone(), None, &MEMORY).unwrap();
    let load = BASE + 0x8_0000;
    assert_eq!(flat, Flat { bytes: image, load, entry: load, mem_size: 0x2000 });
}

#[test]
fn arm64_image_occupies_at_least_its_file() {
    assert_eq!(flatten(arm64_image(0, 1, 0), None, &MEMORY).unwrap().mem_size, 0x100);
}

#[test]
fn gzipped_image_is_the_image() {
    let image = arm64_image(0, 0x2000, 0xa);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&image).unwrap();
    let packed = encoder.finish().unwrap();
    let [plain, unpacked] = [image, packed.clone()].map(|file| flatten(file, None, &MEMORY).unwrap());
    assert_eq!(plain, unpacked);
    refused(packed[..packed.len() - 9].to_vec(), "cannot be decompressed");
}

#[test]
fn bad_images_are_refused() {
    refused(arm64_image(0, 0, 0), "does not tell its size");
    refused(arm64_image(0, 0x2000, 1), "is a big-endian kernel");
    refused(arm64_image(u64::MAX, 0x2000, 0), "has a wrong text_offset");
    refused(arm64_image(0, u64::MAX, 0), "ends beyond the address space");
    refused(b"MZ\0\0zimg".to_vec(), "is an EFI zboot image");
    refused(vec![0; 100], "is neither an arm64 Image");
    refused(Vec::new(), "is neither an arm64 Image");
}

#[test]
fn raw_image_is_taken_as_it_is() {
    let flat = flatten(vec![1; 12], Some((BASE + 8, BASE + 12)), &MEMORY).unwrap();
    assert_eq!(flat, Flat { bytes: vec![1; 12], load: BASE + 8, entry: BASE + 12, mem_size: 12 });
    assert!(flatten(Vec::new(), Some((BASE, BASE)), &MEMORY).unwrap_err().contains("is empty"));
}

#[test]
fn elf_segments_lie_at_their_physical_addresses() {
    let load = BASE + 0x8_0000;
    let virt = 0xffff_0000_0000_0000;
    // Not in the order of their addresses; the second has a .bss.
    let segments = [Segment(virt + 0x20, load + 0x20, &[2; 4], 0x100), Segment(virt, load, &[1; 8], 8)];
    let flat = flatten(elf_file(virt + 0x20, &segments), None, &MEMORY).unwrap();
    let bytes = [&[1; 8][..], &[0; 0x18], &[2; 4]].concat();
    assert_eq!(flat, Flat { bytes, load, entry: load + 0x20, mem_size: 0x120 });
}

#[test]
fn elf_load_address_is_aligned_down() {
    let flat =
        flatten(elf_file(BASE + 12, &[Segment(BASE + 12, BASE + 12, &[1; 4], 4)]), None, &MEMORY).unwrap();
    let bytes = [[0; 4], [1; 4]].concat();
    assert_eq!(flat, Flat { bytes, load: BASE + 8, entry: BASE + 12, mem_size: 8 });
}

#[test]
fn bad_elf_files_are_refused() {
    let segment = |at, size| Segment(at, at, &[1; 8], size);
    refused(elf_file(0, &[]), "has nothing to load");
    refused(elf_file(0x1000, &[segment(0x1000, 8)]), "outside the VM's RAM");
    refused(elf_file(BASE, &[segment(BASE, 17 << 20)]), "does not fit into the RAM");
    refused(elf_file(BASE, &[segment(BASE, 8), segment(BASE + (1 << 40), 8)]), "does not fit into the RAM");
    refused(elf_file(BASE, &[segment(BASE, 16), segment(BASE + 8, 8)]), "has overlapping segments");
    refused(elf_file(BASE, &[segment(BASE, 4)]), "has overlapping segments");
    refused(elf_file(BASE + 0x100, &[segment(BASE, 8)]), "is no instruction of the image");
    let good = elf_file(BASE, &[segment(BASE, 8)]);
    refused(good[..good.len() - 1].to_vec(), "is truncated");
    refused(good[..20].to_vec(), "is a malformed ELF file");
    let mut x86 = good;
    x86[18] = 62;
    refused(x86, "is not an ELF file for AArch64");
}
