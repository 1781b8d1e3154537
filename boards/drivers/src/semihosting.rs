//! Semihosting (Arm, "Semihosting for AArch32 and AArch64"): files and exit status of the host that emulates or debugs
//! the machine.
//!
//! Only for a machine that has it, which no register tells: without it the HLT below is an undefined instruction. So the
//! program calls in here only when its boot arguments say so.

use core::arch::asm;
use core::ffi::CStr;

// Section "Semihosting operations".
const SYS_OPEN: u64 = 0x01;
const SYS_CLOSE: u64 = 0x02;
const SYS_WRITE: u64 = 0x05;
const SYS_READ: u64 = 0x06;
const SYS_EXIT_EXTENDED: u64 = 0x20;
const ADP_STOPPED_APPLICATION_EXIT: u64 = 0x20026;

/// # Safety
/// The block's addresses are those of memory that the operation may read or write for its duration.
unsafe fn call(operation: u64, block: &[u64]) -> u64 {
    let result;
    // SAFETY: the caller's; the host touches nothing but x0 and the memory that the block names.
    unsafe {
        asm!("hlt #0xf000", inout("x0") operation => result, in("x1") block.as_ptr(), options(nostack, preserves_flags));
    }
    result
}

/// Ends the run with this exit status of the emulator.
pub fn exit(status: u32) -> ! {
    loop {
        // SAFETY: names no memory.
        unsafe { call(SYS_EXIT_EXTENDED, &[ADP_STOPPED_APPLICATION_EXIT, status.into()]) };
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading, as binary.
    Read,
    /// Writing, as binary; an existing file is cut to nothing.
    Write,
}

/// An open file of the host.
#[derive(Debug)]
pub struct File {
    handle: u64,
}

impl File {
    /// Opens a file of the host. `None` if the host refuses.
    pub fn open(name: &CStr, mode: Mode) -> Option<Self> {
        // fopen's "rb" and "wb" (SYS_OPEN, table of modes).
        let mode = match mode {
            Mode::Read => 1,
            Mode::Write => 5,
        };
        // SAFETY: the host reads the name, which ends with a NUL behind these bytes.
        let handle = unsafe { call(SYS_OPEN, &[name.as_ptr() as u64, mode, name.count_bytes() as u64]) };
        (handle != u64::MAX).then_some(Self { handle })
    }

    /// Writes all of `bytes`; whether that went well.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.write(bytes) {
                0 => return false,
                sent => bytes = &bytes[sent..],
            }
        }
        true
    }

    /// Fills `into`; whether there was that much.
    pub fn read_exact(&mut self, mut into: &mut [u8]) -> bool {
        while !into.is_empty() {
            match self.read(into) {
                0 => return false,
                got => into = &mut into[got..],
            }
        }
        true
    }

    /// Writes from the start of `bytes`; how many were written, 0 on failure.
    fn write(&mut self, bytes: &[u8]) -> usize {
        // SAFETY: the host reads `bytes`.
        let left = unsafe { call(SYS_WRITE, &[self.handle, bytes.as_ptr() as u64, bytes.len() as u64]) };
        bytes.len().saturating_sub(left as usize)
    }

    /// Reads into the start of `into`; how many bytes were read, 0 at the end of the file and on failure.
    fn read(&mut self, into: &mut [u8]) -> usize {
        // SAFETY: the host writes to `into`, at most its length.
        let left = unsafe { call(SYS_READ, &[self.handle, into.as_mut_ptr() as u64, into.len() as u64]) };
        into.len().saturating_sub(left as usize)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: names no memory.
        unsafe { call(SYS_CLOSE, &[self.handle]) };
    }
}
