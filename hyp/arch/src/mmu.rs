//! EL2's own translation: one identity map (VA = PA), 39 bits, W^X, guard pages under every stack.

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::boot::STACKS;
use crate::work::WORK_STACKS;
use crate::{MAX_CPUS, PAGE, image, phys};

/// MAIR_EL2: attribute 0 Device-nGnRnE, 1 Device-nGnRE, 2 Normal write-back.
pub(crate) const MAIR: u64 = 0xff_04_00;
const DEVICE: u64 = 0 << 2;
const NORMAL: u64 = 2 << 2;

/// TCR_EL2 without PS: T0SZ = 25 (39 bits), walks write-back inner shareable, 4 KiB granule, RES1 bits 31 and 23
/// (Arm ARM D19.2.139).
pub(crate) const TCR: u64 = (1 << 31) | (1 << 23) | (3 << 12) | (1 << 10) | (1 << 8) | 25;

/// SCTLR_EL2 with everything off: its RES1 bits (Arm ARM, SCTLR_EL2).
pub(crate) const SCTLR_OFF: u64 = 0x30c5_0830;
/// SCTLR_EL2 with MMU, caches and stack alignment check on; [`Map::activate`] adds WXN.
pub(crate) const SCTLR_ON: u64 = SCTLR_OFF | (1 << 12) | (1 << 3) | (1 << 2) | 1;

/// Whether the address lies in the guard page of a stack.
pub(crate) fn is_guard(at: usize) -> bool {
    (0..MAX_CPUS).map(|i| STACKS.guard(i)).chain(WORK_STACKS.guards()).any(|guard| at & !(PAGE - 1) == guard)
}

/// Descriptor bits (Arm ARM, "Translation table descriptor formats"): valid, AF, inner shareable, AP\[1\] (RES1 in a one-level regime).
const LEAF: u64 = (1 << 10) | (3 << 8) | (1 << 6) | 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const READ_ONLY: u64 = 1 << 7;
const EXECUTE_NEVER: u64 = 1 << 54;
/// What [`Map::map`] is given: the kind of memory, and what it may be used for.
const ATTRIBUTES: u64 = (7 << 2) | READ_ONLY | EXECUTE_NEVER;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// A block of the boot mapping: Normal, writable and executable until [`Map::activate`] turns WXN on.
pub(crate) const BOOT_BLOCK: u64 = LEAF | NORMAL;

#[repr(C, align(4096))]
#[derive(Debug)]
struct Table([AtomicU64; 512]);

impl Table {
    /// The attributes with which the root table maps an address, and where the block or page that holds it ends.
    fn attributes(&self, at: usize) -> Option<(u64, usize)> {
        let mut table = self;
        for shift in [30, 21, 12] {
            let entry = table.0[(at >> shift) & 511].load(Ordering::Relaxed);
            if entry & 1 == 0 {
                return None;
            }
            if shift == 12 || entry & TABLE_OR_PAGE == 0 {
                return Some((entry & ATTRIBUTES, ((at >> shift) + 1) << shift));
            }
            table = next_table(entry);
        }
        None
    }
}

/// The table to which a descriptor leads.
fn next_table(entry: u64) -> &'static Table {
    &POOL[((entry & ADDRESS) as usize - POOL.as_ptr() as usize) / size_of::<Table>()]
}

/// Tables for any layout that the supported machines have: 1 root, then by the GiB or 2 MiB that an edge cuts.
const TABLES: usize = 48;
#[unsafe(link_section = ".uninit")]
static POOL: [Table; TABLES] = [const { Table([const { AtomicU64::new(0) }; 512]) }; TABLES];
static USED: AtomicUsize = AtomicUsize::new(0);

/// Why a range could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The range ends above 512 GiB, the reach of EL2's map.
    OutOfReach,
    /// Too many edges that are not 2 MiB-aligned: [`TABLES`] are used up.
    OutOfTables,
    /// It is both memory and a device's registers.
    Conflict,
}

/// The map, in use: what was added to it can be accessed.
#[derive(Debug)]
pub struct Active {
    root: &'static Table,
}

/// Registers of a device: mapped as such, no memory of Rust's or a guest's, and nobody else's.
#[derive(Debug)]
pub struct DeviceMemory {
    range: Range<u64>,
}

impl DeviceMemory {
    /// The physical (= virtual) addresses.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

impl Active {
    /// The registers at these addresses. `None` if not all of them were added by [`Map::device`], or if any is in other use.
    pub fn device(&self, range: &Range<u64>) -> Option<DeviceMemory> {
        let mut at = range.start as usize;
        while at < range.end as usize {
            let (attributes, end) = self.root.attributes(at)?;
            at = if attributes == DEVICE | EXECUTE_NEVER { end } else { return None };
        }
        phys::claim(range).then(|| DeviceMemory { range: range.clone() })
    }
}

/// EL2's map while it is being built, by the primary CPU only.
pub struct Map {
    root: &'static Table,
}

fn take_table() -> Result<&'static Table, MapError> {
    let table = POOL.get(USED.fetch_add(1, Ordering::Relaxed)).ok_or(MapError::OutOfTables)?;
    // Boot clears `.bss` only.
    table.0.iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
    Ok(table)
}

impl Map {
    /// A map of the image alone: code read-only and executable, constants read-only, data and stacks writable, the guard pages
    /// left out.
    pub fn new() -> Result<Self, MapError> {
        let map = Map { root: take_table()? };
        let image = image::range();
        map.map(image.start..image::text_end(), NORMAL | READ_ONLY)?;
        map.map(image::text_end()..image::rodata_end(), NORMAL | READ_ONLY | EXECUTE_NEVER)?;
        let mut at = image::rodata_end();
        let guards = || (0..MAX_CPUS).map(|i| STACKS.guard(i)).chain(WORK_STACKS.guards());
        // Both sets lie behind all data; the linker script decides which comes first.
        while let Some(guard) = guards().filter(|&guard| guard >= at).min() {
            map.map(at..guard, NORMAL | EXECUTE_NEVER)?;
            at = guard + PAGE;
        }
        map.map(at..image.end, NORMAL | EXECUTE_NEVER)?;
        Ok(map)
    }

    /// Adds memory that EL2 reads and writes: guest RAM, device tree, bundle. The image's own range is left as it is.
    pub fn memory(&self, range: Range<u64>) -> Result<(), MapError> {
        let image = image::range();
        let (start, end) = (range.start as usize & !(PAGE - 1), (range.end as usize).next_multiple_of(PAGE));
        self.map(start..end.min(image.start).max(start), NORMAL | EXECUTE_NEVER)?;
        self.map(start.max(image.end).min(end)..end, NORMAL | EXECUTE_NEVER)
    }

    /// Adds a device's registers.
    pub fn device(&self, range: Range<u64>) -> Result<(), MapError> {
        let (start, end) = (range.start as usize & !(PAGE - 1), (range.end as usize).next_multiple_of(PAGE));
        self.map(start..end, DEVICE | EXECUTE_NEVER)
    }

    fn map(&self, range: Range<usize>, attributes: u64) -> Result<(), MapError> {
        if range.end > 1 << 39 {
            return Err(MapError::OutOfReach);
        }
        Self::fill(self.root, 30, range, attributes)
    }

    /// Maps a range by descriptors of this level, or of tables below it where they are too large.
    fn fill(table: &Table, shift: u32, range: Range<usize>, attributes: u64) -> Result<(), MapError> {
        let mut at = range.start;
        while at < range.end {
            let entry = &table.0[(at >> shift) & 511];
            let next = ((at >> shift) + 1) << shift;
            let old = entry.load(Ordering::Relaxed);
            if old & 1 != 0 && (shift == 12 || old & TABLE_OR_PAGE == 0) {
                // Ranges of a device tree may overlap, if they mean the same.
                if old & ATTRIBUTES != attributes {
                    return Err(MapError::Conflict);
                }
            } else if shift == 12 {
                entry.store(at as u64 | LEAF | TABLE_OR_PAGE | attributes, Ordering::Relaxed);
            } else if old & 1 == 0 && at.is_multiple_of(1 << shift) && next <= range.end {
                entry.store(at as u64 | LEAF | attributes, Ordering::Relaxed);
            } else {
                let below = if old & 1 != 0 { next_table(old) } else { take_table()? };
                entry.store(core::ptr::from_ref(below) as u64 | TABLE_OR_PAGE | 1, Ordering::Relaxed);
                Self::fill(below, shift - 9, at..next.min(range.end), attributes)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Replaces the boot mapping on this CPU. What ran from the boot mapping goes on: both are the identity where they overlap.
    pub fn activate(self) -> Active {
        let root = core::ptr::from_ref(self.root) as u64;
        for table in POOL.iter().take(USED.load(Ordering::Relaxed)) {
            // Secondary CPUs start their walks with caches that they have just turned on.
            crate::cache::clean(core::ptr::from_ref(table) as usize, size_of::<Table>());
        }
        // SAFETY: the new map has the running code, its data and its stack at the addresses where they are. Tables visible (DSB),
        // switch, ISB, old entries gone (TLBI, DSB, ISB): Arm ARM, "Ordering
        // and completion of TLB maintenance instructions".
        unsafe {
            asm!(
                "dsb ishst",
                "msr ttbr0_el2, {root}",
                "isb",
                "tlbi alle2",
                "dsb nsh",
                "isb",
                "mrs {tmp}, sctlr_el2",
                "orr {tmp}, {tmp}, #(1 << 19)", // WXN
                "msr sctlr_el2, {tmp}",
                "isb",
                root = in(reg) root,
                tmp = out(reg) _,
                options(nostack)
            );
        }
        Active { root: self.root }
    }
}
