//! The machine's RAM, which this process sees too.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::config::Board;

/// Where QEMU's `virt` has its RAM.
const VIRT_RAM: u64 = 0x4000_0000;

/// RAM in a file without a name, which is gone with the last who has it open.
#[derive(Debug)]
pub struct Memory {
    file: File,
    base: u64,
    mib: u32,
}

impl Memory {
    /// RAM for a board, all zero.
    ///
    /// # Errors
    /// The kernel does not give such a file.
    pub fn new(board: &Board) -> Result<Self> {
        let (base, mib) = match board {
            Board::Virt { memory_mib, .. } => (VIRT_RAM, *memory_mib),
            Board::Rpi4 { .. } => (0, 2048),
        };
        let file =
            memfd_create("mobivmm-ram", MemfdFlags::CLOEXEC).context("no memory to share with QEMU")?;
        Ok(Self { file: file.into(), base, mib })
    }

    /// QEMU's arguments for it, with which it has to be started by this process.
    pub fn arguments(&self) -> [OsString; 4] {
        let file = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        let object = format!("memory-backend-file,id=ram,share=on,size={}M,mem-path={file}", self.mib);
        ["-object", &object, "-machine", "memory-backend=ram"].map(OsString::from)
    }

    /// Reads what is at a physical address at this moment. Bytes that are written meanwhile are the old or the new ones.
    ///
    /// # Errors
    /// Not all of it is RAM.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(into, self.offset(address)?)
            .with_context(|| format!("no RAM at {address:#x}"))
    }

    /// Writes to a physical address.
    ///
    /// # Errors
    /// It is not RAM.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, self.offset(address)?)
            .with_context(|| format!("no RAM at {address:#x}"))
    }

    fn offset(&self, address: u64) -> Result<u64> {
        let offset = address.checked_sub(self.base).filter(|offset| offset >> 20 < self.mib.into());
        offset.with_context(|| format!("no RAM at {address:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Gic;

    #[test]
    fn what_is_written_at_an_address_is_read_there_and_nowhere_else() {
        let board = Board::Virt { gic: Gic::V3, cpu: "max".into(), cpus: 1, memory_mib: 1 };
        let memory = Memory::new(&board).unwrap();
        memory.write(VIRT_RAM + 8, &[1, 2]).unwrap();
        let mut bytes = [9; 4];
        // QEMU gives the file its size.
        assert!(memory.read(VIRT_RAM + 7, &mut bytes).is_err());
        memory.file.set_len(1 << 20).unwrap();
        memory.read(VIRT_RAM + 7, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 1, 2, 0]);
        for outside in [0, VIRT_RAM - 1, VIRT_RAM + (1 << 20)] {
            assert!(memory.read(outside, &mut bytes).is_err() && memory.write(outside, &bytes).is_err());
        }
        assert!(memory.read(VIRT_RAM + (1 << 20) - 1, &mut bytes).is_err());
    }

    #[test]
    fn qemu_opens_the_very_file() {
        let memory = Memory::new(&Board::Rpi4 { dtb: "pi.dtb".into() }).unwrap();
        memory.write(0, b"x").unwrap();
        let [_, object, ..] = memory.arguments();
        let object = object.into_string().unwrap();
        assert!(
            object.starts_with("memory-backend-file,id=ram,share=on,size=2048M,mem-path=/proc/"),
            "{object}"
        );
        let (_, path) = object.split_once("mem-path=").unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"x");
    }
}
