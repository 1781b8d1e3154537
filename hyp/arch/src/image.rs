//! Where the EL2 image lies: the linker script's symbols as addresses.

use core::ops::Range;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// The carve-out: everything that EL2 owns, physical = virtual addresses.
pub fn range() -> Range<usize> {
    (&raw const __image_start) as usize..(&raw const __image_end) as usize
}

/// The end of the executable part, which starts at the image's start.
pub fn text_end() -> usize {
    (&raw const __text_end) as usize
}

/// The end of the read-only part, which starts at [`text_end`].
pub fn rodata_end() -> usize {
    (&raw const __rodata_end) as usize
}
