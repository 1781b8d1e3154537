//! Where a guest's initrd and device tree lie in its RAM, given its kernel.
//!
//! ```text
//! base        kernel.load                                                  base + size
//! | dtb |  ...  | kernel .bss |                      | initrd |  ...     |   kernel high enough for the dtb below it
//! | kernel .bss |                         | dtb |    | initrd |  ...     |   else
//! ```

use bundle::{DTB_WINDOW, Memory, RAM_ALIGN};

/// Device tree and initrd begin at multiples of the largest page of the architecture, 64 KiB: guests free the initrd
/// in pages.
const ALIGN: u64 = 0x1_0000;

/// Guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Where the initrd goes, or would.
    pub(crate) initrd: u64,
    /// Where the device tree goes.
    pub(crate) dtb: u64,
}

/// Places initrd and device tree; the kernel begins in the RAM.
///
/// # Errors
/// They do not fit: how much RAM they would need, in bytes.
pub(crate) fn place(
    memory: &Memory,
    kernel: u64,
    kernel_size: u64,
    initrd_size: u64,
) -> Result<Placement, u64> {
    let kernel_end = kernel.saturating_add(kernel_size);
    let below = kernel - memory.base >= DTB_WINDOW;
    let dtb = if below { memory.base } else { align(kernel_end) };
    let used = kernel_end.max(dtb.saturating_add(DTB_WINDOW));
    let initrd = align(used);
    let end = if initrd_size == 0 { used } else { initrd.saturating_add(initrd_size) };
    if end > memory.base + memory.size {
        let needed = end - memory.base;
        return Err(needed.checked_next_multiple_of(RAM_ALIGN).unwrap_or(needed));
    }
    Ok(Placement { initrd, dtb })
}

fn align(address: u64) -> u64 {
    address.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    const BASE: u64 = 0x4000_0000;
    const MEMORY: Memory = Memory { base: BASE, size: 16 << 20, identity: false };

    #[test]
    fn device_tree_below_a_kernel_that_leaves_room_and_else_behind_it() {
        let high = place(&MEMORY, BASE + 0x8_0000, 0x1234, 0).unwrap();
        assert_eq!(high.dtb, BASE);
        let low = place(&MEMORY, BASE, 0x1234, 0).unwrap();
        assert_eq!(low.dtb, BASE + 0x1_0000);
        assert_eq!(low.initrd, BASE + 0x2_0000);
    }

    #[test]
    fn what_does_not_fit_says_how_much_would() {
        // The kernel ends at 15 MiB, the device tree's window and so the initrd's place 64 KiB behind it.
        let room = (1 << 20) - DTB_WINDOW;
        assert!(place(&MEMORY, BASE, 15 << 20, room).is_ok());
        assert_eq!(place(&MEMORY, BASE, 15 << 20, room + 1), Err(18 << 20));
        assert!(place(&MEMORY, BASE, u64::MAX, 1).is_err());
    }
}
