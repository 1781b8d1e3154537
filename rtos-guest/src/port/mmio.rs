//! Access to device registers by single loads and stores, which a hypervisor can emulate: the compiler's own may be of
//! a kind (pairs, write-back) that traps without a syndrome (Arm ARM, D17.2.37, ISS for a data abort, ISV).

use core::arch::asm;

use crate::dt::Region;

/// The registers of one device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mmio(Region);

impl Mmio {
    /// # Safety
    /// `region` is mapped as device memory for good, and is that of a device that the caller drives.
    pub(super) unsafe fn new(region: Region) -> Self {
        Self(region)
    }

    /// The registers from `offset` on.
    pub(super) fn from(self, offset: usize) -> Self {
        assert!(offset <= self.0.size, "a register outside its device");
        Self(Region {
            base: self.0.base + offset,
            size: self.0.size - offset,
        })
    }

    fn address<T>(self, offset: usize) -> usize {
        assert!(
            offset + size_of::<T>() <= self.0.size,
            "a register outside its device"
        );
        self.0.base + offset
    }

    pub(super) fn read8(self, offset: usize) -> u8 {
        let value: u32;
        // SAFETY: `new`'s caller promised a device there, and reads of it do not touch memory.
        unsafe {
            asm!("ldrb {:w}, [{}]", out(reg) value, in(reg) self.address::<u8>(offset), options(nostack, preserves_flags))
        };
        value as u8
    }

    pub(super) fn write8(self, offset: usize, value: u8) {
        let value = u32::from(value);
        // SAFETY: `new`'s caller promised a device there that is ours to drive.
        unsafe {
            asm!("strb {:w}, [{}]", in(reg) value, in(reg) self.address::<u8>(offset), options(nostack, preserves_flags))
        };
    }

    pub(super) fn read(self, offset: usize) -> u32 {
        let value: u32;
        // SAFETY: as `read8`.
        unsafe {
            asm!("ldr {:w}, [{}]", out(reg) value, in(reg) self.address::<u32>(offset), options(nostack, preserves_flags))
        };
        value
    }

    pub(super) fn write(self, offset: usize, value: u32) {
        // SAFETY: as `write8`.
        unsafe {
            asm!("str {:w}, [{}]", in(reg) value, in(reg) self.address::<u32>(offset), options(nostack, preserves_flags))
        };
    }

    pub(super) fn read64(self, offset: usize) -> u64 {
        let value: u64;
        // SAFETY: as `read8`.
        unsafe {
            asm!("ldr {}, [{}]", out(reg) value, in(reg) self.address::<u64>(offset), options(nostack, preserves_flags))
        };
        value
    }

    pub(super) fn write64(self, offset: usize, value: u64) {
        // SAFETY: as `write8`.
        unsafe {
            asm!("str {}, [{}]", in(reg) value, in(reg) self.address::<u64>(offset), options(nostack, preserves_flags))
        };
    }
}
