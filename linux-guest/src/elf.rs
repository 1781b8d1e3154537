//! Just enough of ELF-64 (System V ABI, chapters 4 and 5) to tell a program that the guest can run from one it cannot.

use anyhow::{Result, bail, ensure};

const EM_AARCH64: u16 = 183;
const PT_INTERP: u32 = 3;

/// Checks that `file` is a program for AArch64 Linux that needs no dynamic linker.
pub fn check_static_aarch64(file: &[u8]) -> Result<()> {
    ensure!(file.starts_with(b"\x7fELF"), "not an ELF program");
    ensure!(file.get(4..6) == Some(&[2, 1]), "not a 64-bit little-endian ELF program");
    let machine = u16_at(file, 18)?;
    ensure!(machine == EM_AARCH64, "made for ELF machine {machine}, not for AArch64 ({EM_AARCH64})");
    let headers = usize::try_from(u64_at(file, 32)?)?;
    let size = usize::from(u16_at(file, 54)?);
    for n in 0..usize::from(u16_at(file, 56)?) {
        let Some(at) = n.checked_mul(size).and_then(|offset| headers.checked_add(offset)) else {
            bail!("program header {n} lies outside of the file");
        };
        ensure!(
            u32_at(file, at)? != PT_INTERP,
            "linked dynamically, but the initramfs has no dynamic linker"
        );
    }
    Ok(())
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = at.checked_add(N).and_then(|end| file.get(at..end));
    match bytes.and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => Ok(bytes),
        None => bail!("truncated ELF program: nothing at offset {at:#x}"),
    }
}

fn u16_at(file: &[u8], at: usize) -> Result<u16> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An ELF header for `machine` with one program header of the given type.
    pub fn program(machine: u16, header_type: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        file[64..68].copy_from_slice(&header_type.to_le_bytes());
        file
    }

    #[test]
    fn only_static_aarch64_programs_pass() {
        assert!(check_static_aarch64(&program(EM_AARCH64, 1)).is_ok());
        let error = |file: &[u8]| check_static_aarch64(file).unwrap_err().to_string();
        assert!(error(b"#!/bin/sh").contains("not an ELF"));
        assert!(error(&program(62, 1)).contains("machine 62"));
        assert!(error(&program(EM_AARCH64, PT_INTERP)).contains("dynamically"));
    }

    #[test]
    fn truncated_programs_are_refused_at_any_length() {
        let whole = program(EM_AARCH64, 1);
        for length in 0..68 {
            assert!(check_static_aarch64(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_wild_header_offset_is_refused() {
        let mut file = program(EM_AARCH64, 1);
        file[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(check_static_aarch64(&file).is_err());
    }
}
