//! The EL1 address space: an identity map of this image, the device tree and the devices (VMSAv8-64, 4 KiB granule,
//! 39 bits). What is not mapped faults, address 0 among it.

use core::arch::asm;
use core::cell::RefCell;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    ID_AA64MMFR0_EL1, MAIR_EL1, Readable, SCTLR_EL1, TCR_EL1, TTBR0_EL1, Writeable,
};
use critical_section::Mutex;

const PAGE: usize = 4 << 10;
const BLOCK: usize = 2 << 20;
/// So much of the image's data is mapped by pages: the stacks, whose guards are unmapped one by one, are in it, since the
/// linker script puts what is aligned to pages first.
const PAGED: usize = 8 << 20;
const VALID: u64 = 1;
/// The smallest line a data cache can have (CTR_EL0.DminLine counts words from here up).
const CACHE_LINE_MIN: usize = 16;
/// A table at levels 1 and 2, a page at level 3 (else a block).
const TABLE_OR_PAGE: u64 = 1 << 1;
const ADDRESS: u64 = 0xFFFF_FFFF_F000;

/// Lower attributes with the access flag, and execute-never where nothing is to be executed.
#[derive(Clone, Copy)]
struct Attributes(u64);

impl Attributes {
    const ACCESS: u64 = 1 << 10;
    const INNER_SHAREABLE: u64 = 3 << 8;
    const READ_ONLY: u64 = 1 << 7;
    const NEVER_EXECUTE: u64 = 1 << 53 | 1 << 54;
    const NORMAL: u64 = Self::ACCESS | Self::INNER_SHAREABLE;

    const CODE: Self = Self(Self::NORMAL | Self::READ_ONLY | 1 << 54);
    const CONSTANTS: Self = Self(Self::NORMAL | Self::READ_ONLY | Self::NEVER_EXECUTE);
    const DATA: Self = Self(Self::NORMAL | Self::NEVER_EXECUTE);
    /// MAIR_EL1's attribute 1.
    const DEVICE: Self = Self(Self::ACCESS | 1 << 2 | Self::NEVER_EXECUTE);
}

type Table = [u64; 512];

/// How many there are: root, level 2 of the devices and of RAM, level 3 of [`PAGED`] data and of what is not whole blocks.
const TABLES: usize = 16;

/// A pool of translation tables; the first is the root (level 1).
#[repr(C, align(4096))]
struct Tables {
    pool: [Table; TABLES],
    /// How many are in use besides the root.
    used: usize,
}

static POOL: Mutex<RefCell<Tables>> = Mutex::new(RefCell::new(Tables { pool: [[0; 512]; TABLES], used: 0 }));

impl Tables {
    /// Maps the pages or, where one fits and from `blocks` on, the 2 MiB blocks from `start` to `end`, which are not mapped
    /// yet.
    fn map(&mut self, start: usize, end: usize, Attributes(attributes): Attributes, blocks: usize) {
        let mut at = start & !(PAGE - 1);
        while at < end {
            let level2 = self.next(0, at >> 30 & 511);
            if at.is_multiple_of(BLOCK) && end - at >= BLOCK && at >= blocks {
                self.pool[level2][at >> 21 & 511] = at as u64 | attributes | VALID;
                at += BLOCK;
            } else {
                let level3 = self.next(level2, at >> 21 & 511);
                self.pool[level3][at >> 12 & 511] = at as u64 | attributes | TABLE_OR_PAGE | VALID;
                at += PAGE;
            }
        }
    }

    /// Unmaps the page at `at`.
    fn unmap(&mut self, at: usize) {
        let level2 = self.next(0, at >> 30 & 511);
        assert!(
            self.pool[level2][at >> 21 & 511] & TABLE_OR_PAGE != 0,
            "a stack beyond {PAGED:#x} bytes of data"
        );
        let level3 = self.next(level2, at >> 21 & 511);
        self.pool[level3][at >> 12 & 511] = 0;
    }

    /// The table in entry `index` of `table`, a new one if there is none.
    fn next(&mut self, table: usize, index: usize) -> usize {
        let pool = self.pool.as_ptr().addr();
        assert!(self.used + 1 < self.pool.len(), "out of translation tables");
        let entry = &mut self.pool[table][index];
        if *entry == 0 {
            self.used += 1;
            *entry = (pool + self.used * PAGE) as u64 | TABLE_OR_PAGE | VALID;
        }
        ((*entry & ADDRESS) as usize - pool) / PAGE
    }
}

unsafe extern "C" {
    static __text_start: u8;
    static __rodata_start: u8;
    static __data_start: u8;
    static __image_end: u8;
}

/// Maps the image and the device tree of `dtb_size` bytes at `dtb`, and turns the MMU and the caches on.
pub(super) fn enable(dtb: usize, dtb_size: usize) {
    let text = (&raw const __text_start).addr();
    let rodata = (&raw const __rodata_start).addr();
    let data = (&raw const __data_start).addr();
    let end = (&raw const __image_end).addr();
    critical_section::with(|cs| {
        let mut tables = POOL.borrow_ref_mut(cs);
        tables.map(text, rodata, Attributes::CODE, 0);
        tables.map(rodata, data, Attributes::CONSTANTS, 0);
        tables.map(data, end, Attributes::DATA, data + PAGED);
        tables.map(dtb, dtb + dtb_size, Attributes::CONSTANTS, 0);
        TTBR0_EL1.set(tables.pool.as_ptr().addr() as u64);
    });
    // Attribute 0: normal, write-back, allocating; 1: device-nGnRE.
    MAIR_EL1.set(0x04FF);
    // 39-bit addresses (T0SZ), walks inner-shareable and write-back (SH0, ORGN0, IRGN0), none by TTBR1 (EPD1), physical
    // addresses as wide as the CPU has them, up to 48 bits.
    let parange = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(0b101);
    TCR_EL1.set(25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | parange << 32);
    // What was written so far went past the caches: lines that hold older data must go (Arm ARM,
    // "Effects of instructions that operate by VA to the PoC").
    for line in (data..end).step_by(CACHE_LINE_MIN) {
        // SAFETY: nothing in these lines is newer than memory, since the data cache has been off.
        unsafe { asm!("dc ivac, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: the map is the identity for all that is in use; the tables stay where they are.
    unsafe { asm!("dsb sy", "ic iallu", "tlbi vmalle1", "dsb sy", "isb", options(nostack, preserves_flags)) };
    // MMU, data cache, instruction cache; stack alignment checked; nothing writable is executable (WXN).
    SCTLR_EL1.set(SCTLR_EL1.get() | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19);
    barrier::isb(barrier::SY);
}

/// Maps a device's registers.
pub(super) fn map_device(base: usize, size: usize) {
    map_more(base, size, Attributes::DEVICE);
}

/// Maps memory that is shared with another VM.
pub(super) fn map_shared(base: usize, size: usize) {
    map_more(base, size, Attributes::DATA);
}

/// Maps memory that a hypervisor writes, for reading.
pub(super) fn map_read_only(base: usize, size: usize) {
    map_more(base, size, Attributes::CONSTANTS);
}

fn map_more(base: usize, size: usize, attributes: Attributes) {
    critical_section::with(|cs| POOL.borrow_ref_mut(cs).map(base, base + size, attributes, 0));
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
}

/// Unmaps the page at `page`, a stack's guard: an access faults.
pub(super) fn unmap(page: usize) {
    critical_section::with(|cs| POOL.borrow_ref_mut(cs).unmap(page));
    // SAFETY: nothing in the page is in use; invalidating an entry of the TLB (VA in bits 43:0, all ASIDs) is always safe.
    unsafe {
        asm!("dsb ishst", "tlbi vaae1is, {}", "dsb ish", "isb", in(reg) page >> 12, options(nostack, preserves_flags));
    }
}
