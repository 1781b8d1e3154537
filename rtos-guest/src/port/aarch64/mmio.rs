//! Access to device registers by single loads and stores, which a hypervisor can emulate: the compiler's own may be of
//! a kind (pairs, write-back) that traps without a syndrome (Arm ARM, ESR_EL2, ISV).

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
        Self(Region { base: self.0.base + offset, size: self.0.size - offset })
    }

    fn address<T>(self, offset: usize) -> usize {
        assert!(offset + size_of::<T>() <= self.0.size, "a register outside its device");
        self.0.base + offset
    }
}

macro_rules! register_access {
    ($read:ident, $write:ident, $type:ty, $register:ty, $load:literal, $store:literal) => {
        impl Mmio {
            pub(super) fn $read(self, offset: usize) -> $type {
                let address = self.address::<$type>(offset);
                let value: $register;
                // SAFETY: `new`'s caller promised a device there, and reads of it do not touch memory.
                unsafe { asm!($load, out(reg) value, in(reg) address, options(nostack, preserves_flags)) };
                value as $type
            }

            pub(super) fn $write(self, offset: usize, value: $type) {
                let (address, value) = (self.address::<$type>(offset), <$register>::from(value));
                // SAFETY: `new`'s caller promised a device there that is ours to drive.
                unsafe { asm!($store, in(reg) value, in(reg) address, options(nostack, preserves_flags)) };
            }
        }
    };
}

register_access!(read8, write8, u8, u32, "ldrb {:w}, [{}]", "strb {:w}, [{}]");
register_access!(read, write, u32, u32, "ldr {:w}, [{}]", "str {:w}, [{}]");
register_access!(read64, write64, u64, u64, "ldr {}, [{}]", "str {}, [{}]");
