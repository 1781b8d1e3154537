//! What two mobi-rtos guests make of the page of a channel between them ([`abi::channel`]): a byte stream and lines each way.

use core::sync::atomic::{AtomicU8, AtomicU32};

/// Bytes that a [`Side::ring`] holds.
pub const RING_SIZE: usize = 1024;

/// A channel's page: for each of its ends what that end writes. All zero is what it
/// begins with.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Page {
    /// What each end sends.
    pub sides: [Side; 2],
}

/// What one end of a channel writes, and the other reads.
#[repr(C)]
#[derive(Debug)]
pub struct Side {
    /// Its 32 output lines.
    pub lines: AtomicU32,
    /// How many bytes it has written to its ring, modulo 2^32. Written after the bytes, by a store with release semantics.
    pub written: AtomicU32,
    /// How many bytes it has read from the *other* side's ring, modulo 2^32.
    pub read: AtomicU32,
    /// Zero.
    pub reserved: [AtomicU32; 253],
    /// Its ring: byte `n` is at `n` modulo [`RING_SIZE`].
    pub ring: [AtomicU8; RING_SIZE],
}

impl Page {
    /// A page as the hypervisor hands it out.
    pub const fn new() -> Self {
        Self { sides: [const { Side::new() }; 2] }
    }
}

impl Side {
    const fn new() -> Self {
        Self {
            lines: AtomicU32::new(0),
            written: AtomicU32::new(0),
            read: AtomicU32::new(0),
            reserved: [const { AtomicU32::new(0) }; 253],
            ring: [const { AtomicU8::new(0) }; RING_SIZE],
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn the_layout_is_the_documented_one() {
        assert_eq!((size_of::<Page>(), size_of::<Side>()), (abi::channel::PAGE_SIZE, 2048));
        assert_eq!((offset_of!(Side, lines), offset_of!(Side, written), offset_of!(Side, read)), (0, 4, 8));
        assert_eq!(offset_of!(Side, ring), 1024);
    }
}
