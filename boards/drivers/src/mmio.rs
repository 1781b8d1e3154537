//! Device registers by physical address.
//!
//! Own code, and small: the ownership that crates such as safe-mmio express (one writer a block) is not that of an
//! interrupt controller, whose registers are banked by CPU or made to be written by all CPUs at once.

/// A block of `SIZE` bytes of 32-bit device registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mmio<const SIZE: usize> {
    base: usize,
}

impl<const SIZE: usize> Mmio<SIZE> {
    /// The registers at `offset` of a device; `None` if there are not that many.
    #[cfg(target_os = "none")]
    pub(crate) fn within(device: &arch::mmu::DeviceMemory, offset: u64) -> Option<Self> {
        let range = device.range();
        let start = range.start.checked_add(offset)?;
        let end = start.checked_add(SIZE as u64)?;
        (start.is_multiple_of(8) && end <= range.end).then_some(Self { base: start as usize })
    }

    /// # Safety
    /// For as long as the handle is used, `SIZE` bytes from `base` (8-byte aligned) are memory that nobody else uses.
    #[cfg(test)]
    pub(crate) const unsafe fn new(base: u64) -> Self {
        Self { base: base as usize }
    }

    /// The registers from `offset` on as a block of their own.
    #[cfg(target_os = "none")]
    pub(crate) const fn part<const PART: usize>(self, offset: usize) -> Mmio<PART> {
        assert!(offset + PART <= SIZE);
        Mmio { base: self.base + offset }
    }

    fn at<T>(self, offset: usize) -> *mut T {
        assert!(offset < SIZE && offset.is_multiple_of(size_of::<T>()));
        (self.base + offset) as *mut T
    }

    #[inline]
    pub(crate) fn read(self, offset: usize) -> u32 {
        // SAFETY: in the block (checked by `at`), which is a device's, mapped, and no memory that Rust knows of (`within`).
        unsafe { self.at::<u32>(offset).read_volatile() }
    }

    #[inline]
    pub(crate) fn write(self, offset: usize, value: u32) {
        // SAFETY: as for `read`; a device register, so nothing of Rust's changes.
        unsafe { self.at::<u32>(offset).write_volatile(value) }
    }

    /// For registers that the architecture makes byte-accessible.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn write_u8(self, offset: usize, value: u8) {
        // SAFETY: as for `write`.
        unsafe { self.at::<u8>(offset).write_volatile(value) }
    }

    /// For 64-bit registers.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn read_u64(self, offset: usize) -> u64 {
        // SAFETY: as for `read`.
        unsafe { self.at::<u64>(offset).read_volatile() }
    }

    /// For 64-bit registers.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn write_u64(self, offset: usize, value: u64) {
        // SAFETY: as for `write`.
        unsafe { self.at::<u64>(offset).write_volatile(value) }
    }
}
