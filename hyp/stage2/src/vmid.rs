//! VMIDs: the tags of a VM's TLB entries.

use core::num::NonZeroU8;

/// A VMID of 8 bits. 0 is nobody's: the value of VTTBR_EL2 at reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vmid(NonZeroU8);

impl Vmid {
    /// The number.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

/// Gives each VM a VMID of its own for as long as it lives, so that none is ever recycled under a running VM.
#[derive(Debug)]
pub struct VmidAllocator {
    used: [u64; 4],
}

impl Default for VmidAllocator {
    /// With 1 to 255 free.
    fn default() -> Self {
        Self { used: [1, 0, 0, 0] }
    }
}

impl VmidAllocator {
    /// A VMID that nobody has, if there is one.
    pub fn alloc(&mut self) -> Option<Vmid> {
        let word = self.used.iter().position(|&word| word != u64::MAX)?;
        let bit = self.used[word].trailing_ones();
        self.used[word] |= 1 << bit;
        let number = (word as u32 * 64 + bit) as u8;
        NonZeroU8::new(number).map(Vmid)
    }

    /// Takes one back. No TLB may hold entries for it: [`crate::Stage2::destroy`] sees to that.
    pub fn free(&mut self, vmid: Vmid) {
        let number = usize::from(vmid.get());
        self.used[number / 64] &= !(1 << (number % 64));
    }
}
