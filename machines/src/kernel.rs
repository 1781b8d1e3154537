//! Kernel formats: whatever a VM starts becomes one flat image with a load address and an entry, so that the
//! hypervisor needs to know none of them.

use bundle::Memory;
use flate2::read::GzDecoder;
use object::LittleEndian;
use object::elf::{EM_AARCH64, FileHeader64, PT_LOAD, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use std::io::Read as _;

/// A kernel as it lies in the guest's memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flat {
    pub(crate) bytes: Vec<u8>,
    /// Where the bytes go.
    pub(crate) load: u64,
    /// The first instruction.
    pub(crate) entry: u64,
    /// The bytes that it occupies from `load` on; those beyond `bytes` are zero.
    pub(crate) mem_size: u64,
}

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Where an arm64 `Image` has its magic number, and which (Linux, Documentation/arch/arm64/booting.rst, section 4).
const IMAGE_MAGIC: (usize, &[u8]) = (0x38, b"ARM\x64");
/// An EFI zboot image: a decompressor around the kernel (Linux, drivers/firmware/efi/libstub/zboot-header.S).
const ZBOOT_MAGIC: (usize, &[u8]) = (4, b"zimg");

/// Makes the kernel in `file` flat, for a VM with this memory. `raw` are load address and entry of a raw image.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub(crate) fn flatten(file: Vec<u8>, raw: Option<(u64, u64)>, memory: &Memory) -> Result<Flat, String> {
    let flat = if let Some((load, entry)) = raw {
        let mem_size = file.len() as u64;
        Flat { bytes: file, load, entry, mem_size }
    } else if file.starts_with(GZIP_MAGIC) {
        let mut bytes = Vec::new();
        let limit = memory.size.saturating_add(1);
        let result = GzDecoder::new(&file[..]).take(limit).read_to_end(&mut bytes);
        result.map_err(|error| format!("cannot be decompressed: {error}; fetch it again"))?;
        image(bytes, memory)?
    } else if file.starts_with(ELF_MAGIC) {
        elf(&file, memory)?
    } else {
        image(file, memory)?
    };
    let end = flat.load.checked_add(flat.mem_size).ok_or("ends beyond the address space: link it lower")?;
    if flat.bytes.is_empty() {
        return Err("is empty: name another file".into());
    }
    if flat.load < memory.base || flat.load >= memory.base + memory.size {
        let (load, base, ram_end) = (flat.load, memory.base, memory.base + memory.size);
        return Err(format!(
            "loads at {load:#x}, outside the VM's RAM ({base:#x} to {ram_end:#x}): link it into the RAM or change memory"
        ));
    }
    if !(flat.load..end).contains(&flat.entry) || !flat.entry.is_multiple_of(4) {
        let (entry, load) = (flat.entry, flat.load);
        return Err(format!(
            "entry {entry:#x} is no instruction of the image ({load:#x} to {end:#x}): correct it"
        ));
    }
    Ok(flat)
}

/// An arm64 `Image`: goes `text_offset` bytes behind a 2 MiB boundary, here the base of the RAM.
fn image(bytes: Vec<u8>, memory: &Memory) -> Result<Flat, String> {
    let has =
        |(offset, magic): (usize, &[u8])| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if has(ZBOOT_MAGIC) {
        return Err(
            "is an EFI zboot image: use the arm64 Image that it was made from (vmlinuz.efi's payload)".into(),
        );
    }
    if !has(IMAGE_MAGIC) {
        return Err("is neither an arm64 Image (also gzipped) nor an ELF file: for a raw image write \
                    { raw = \"FILE\", load = ADDRESS, entry = ADDRESS }"
            .into());
    }
    let field = |offset: usize| {
        let bytes = bytes.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let (text_offset, image_size, flags) = (field(8), field(16), field(24));
    if image_size == 0 {
        return Err("does not tell its size (Linux before 3.17): use a newer kernel".into());
    }
    if flags & 1 != 0 {
        return Err("is a big-endian kernel: use a little-endian one".into());
    }
    let load = memory.base.checked_add(text_offset).ok_or("has a wrong text_offset: fetch it again")?;
    // The image in the file may be longer than it says (a signature behind it) or shorter (its .bss).
    let mem_size = image_size.max(bytes.len() as u64);
    Ok(Flat { bytes, load, entry: load, mem_size })
}

/// An ELF file: its loadable segments at their physical addresses, the gaps zero.
fn elf(file: &[u8], memory: &Memory) -> Result<Flat, String> {
    let malformed = |error: object::Error| format!("is a malformed ELF file: {error}; build it again");
    let header = FileHeader64::<LittleEndian>::parse(file).map_err(malformed)?;
    if header.e_machine.get(LittleEndian) != EM_AARCH64 {
        return Err("is not an ELF file for AArch64: build it for aarch64".into());
    }
    let headers = header.program_headers(LittleEndian, file).map_err(malformed)?;
    let loaded = |segment: &&ProgramHeader64<LittleEndian>| {
        segment.p_type(LittleEndian) == PT_LOAD && segment.p_memsz(LittleEndian) != 0
    };
    let mut segments: Vec<_> = headers.iter().filter(loaded).collect();
    segments.sort_by_key(|segment| segment.p_paddr(LittleEndian));
    let first = segments.first().ok_or("has nothing to load: link it as a program")?;
    // Aligned as the hypervisor copies it.
    let load = first.p_paddr(LittleEndian) & !7;
    let entry = header.e_entry.get(LittleEndian);
    let mut flat = Flat { bytes: Vec::new(), load, entry, mem_size: 0 };
    for segment in segments {
        let start = segment.p_paddr(LittleEndian) - load;
        let end = start.checked_add(segment.p_memsz(LittleEndian)).filter(|&end| end <= memory.size);
        let end = end.ok_or_else(|| {
            let (at, size) = (segment.p_paddr(LittleEndian), segment.p_memsz(LittleEndian));
            format!(
                "the segment at {at:#x} with {size:#x} bytes does not fit into the RAM: give it more memory"
            )
        })?;
        let data = segment.data(LittleEndian, file).map_err(|()| "is truncated: build it again")?;
        if start < flat.mem_size || data.len() as u64 > end - start {
            return Err("has overlapping segments: correct its linker script".into());
        }
        if !data.is_empty() {
            flat.bytes.resize(start as usize, 0);
            flat.bytes.extend_from_slice(data);
        }
        flat.mem_size = end;
        // The entry is a virtual address, as the segment's; the guest begins with its MMU off.
        if let Some(offset) = entry.checked_sub(segment.p_vaddr(LittleEndian))
            && offset < segment.p_memsz(LittleEndian)
        {
            flat.entry = segment.p_paddr(LittleEndian) + offset;
        }
    }
    Ok(flat)
}

#[cfg(test)]
mod tests;
