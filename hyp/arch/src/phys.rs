//! Physical memory outside EL2's own: guest RAM as bytes, and what the boot loader left as constant slices.
//!
//! Safe because the two never meet, nor devices, nor the image: every range is claimed once, and an overlapping claim is refused. Guest RAM is
//! never behind a Rust reference; it is read and written by volatile accesses, since its guest may change it at any time.

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use lock::TicketMutex;

use crate::{PAGE, cache, cpu, image};

const MAX_CLAIMS: usize = 48;

/// Start and end of each range in use, as many as there are.
struct Claims {
    ranges: [(u64, u64); MAX_CLAIMS],
    count: usize,
}
static CLAIMS: TicketMutex<Claims> = TicketMutex::new(Claims { ranges: [(0, 0); MAX_CLAIMS], count: 0 });

/// Claims a range for one use; false if it meets an earlier claim or the image, or the list is full.
pub(crate) fn claim(range: &Range<u64>) -> bool {
    let image = image::range();
    let meets = |start: u64, end: u64| range.start < end && start < range.end;
    if range.is_empty() || meets(image.start as u64, image.end as u64) {
        return false;
    }
    cpu::masked(|| {
        let mut claims = CLAIMS.lock();
        let count = claims.count;
        if count == MAX_CLAIMS || claims.ranges[..count].iter().any(|&(start, end)| meets(start, end)) {
            return false;
        }
        claims.ranges[count] = (range.start, range.end);
        claims.count += 1;
        true
    })
}

/// Bytes that the boot loader left in memory (device tree, bundle), for ever. `None` if the range is used otherwise. The range must
/// be mapped ([`crate::mmu::Map::memory`], or by the boot mapping) before the slice is read.
pub fn boot_bytes(range: Range<u64>) -> Option<&'static [u8]> {
    if range.start == 0 || range.end > 1 << 39 || !claim(&range) {
        return None;
    }
    // SAFETY: claimed: neither EL2's data nor guest RAM, so nobody ever writes there; mapped, as the contract says.
    Some(unsafe { core::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize) })
}

/// A range of physical memory for guests and their translation tables, as bytes.
#[derive(Debug)]
pub struct Region {
    range: Range<u64>,
}

impl Region {
    /// Claims a page-aligned, mapped range. `None` if any of it is in other use.
    pub fn claim(range: Range<u64>) -> Option<Self> {
        let aligned = range.start.is_multiple_of(PAGE as u64) && range.end.is_multiple_of(PAGE as u64);
        (aligned && claim(&range)).then_some(Self { range })
    }

    /// A part of the region, to be accessed apart from the rest; `None` if not all of it lies in the region.
    pub fn part(&self, range: Range<u64>) -> Option<Self> {
        let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        self.contains(range.start, len).then_some(Self { range })
    }

    /// The physical addresses.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Whether all of these bytes lie in the region.
    pub fn contains(&self, at: u64, len: usize) -> bool {
        at >= self.range.start && at.checked_add(len as u64).is_some_and(|end| end <= self.range.end)
    }

    /// Reads bytes at a physical address; false (and nothing read) if they are not all in the region.
    pub fn read(&self, at: u64, into: &mut [u8]) -> bool {
        if !self.contains(at, into.len()) {
            return false;
        }
        // SAFETY: in the region, which is mapped normal memory without Rust objects; and exactly the slice.
        unsafe { copy(at as *const u8, into.as_mut_ptr(), into.len()) };
        true
    }

    /// Writes bytes at a physical address; false (and nothing written) if they do not all fit in the region.
    pub fn write(&self, at: u64, bytes: &[u8]) -> bool {
        if !self.contains(at, bytes.len()) {
            return false;
        }
        // SAFETY: as in `read`.
        unsafe { copy(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        true
    }

    /// Clears bytes, to the Point of Coherency; false (and nothing done) if they are not all in the region.
    pub fn zero(&self, at: u64, len: usize) -> bool {
        let ok = self.contains(at, len);
        if ok {
            // SAFETY: as in `read`.
            unsafe { cache::zero(at as usize, len) };
        }
        ok
    }

    /// Reads an aligned 64-bit word: a translation table descriptor.
    pub fn read_word(&self, at: u64) -> Option<u64> {
        let ok = at.is_multiple_of(8) && self.contains(at, 8);
        // SAFETY: as in `read`, and aligned.
        ok.then(|| unsafe { (at as *const u64).read_volatile() })
    }

    /// Writes an aligned 64-bit word in one access; false if it is not in the region.
    pub fn write_word(&self, at: u64, value: u64) -> bool {
        let ok = at.is_multiple_of(8) && self.contains(at, 8);
        if ok {
            // SAFETY: as in `read`, and aligned: hardware walkers see the old or the new descriptor.
            unsafe { (at as *mut u64).write_volatile(value) };
        }
        ok
    }
}

/// Copies bytes, sixteen at a time wherever they are: by instructions of its own, since Rust has none for unaligned accesses on a target
/// without an MMU, and would go byte by byte.
///
/// # Safety
/// Both are `len` bytes of mapped normal memory; `to` may be written, and nobody else writes what of the two is Rust's.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's contract. Alignment is not checked in EL2's translation regime (SCTLR_EL2.A = 0).
    unsafe {
        asm!(
            "cbz {pairs}, 3f",
            "2: ldp {a}, {b}, [{from}], #16", "stp {a}, {b}, [{to}], #16", "subs {pairs}, {pairs}, #1", "b.ne 2b",
            "3: cbz {rest}, 5f",
            "4: ldrb {a:w}, [{from}], #1", "strb {a:w}, [{to}], #1", "subs {rest}, {rest}, #1", "b.ne 4b",
            "5:",
            pairs = inout(reg) len / 16 => _, rest = inout(reg) len % 16 => _, a = out(reg) _, b = out(reg) _,
            from = inout(reg) from => _, to = inout(reg) to => _, options(nostack)
        );
    }
}

/// The device tree at `at`, as the boot loader passed it: checked for magic and size (Devicetree Specification 0.4, section 5.2), and
/// that it ends in the GiB in which it starts, which is what the boot mapping has.
pub fn device_tree(at: u64) -> Option<&'static [u8]> {
    const MAX: u64 = 2 << 20;
    if at == 0 || !at.is_multiple_of(8) || at >= 1 << 39 {
        return None;
    }
    // SAFETY: aligned, in the GiB that boot.S mapped because x0 pointed there; read once, before anything else is claimed.
    let (magic, size) =
        unsafe { ((at as *const u32).read_volatile(), (at as *const u32).add(1).read_volatile()) };
    let size = u64::from(u32::from_be(size));
    let end = at.checked_add(size)?;
    if u32::from_be(magic) != 0xd00d_feed || size > MAX || (end - 1) >> 30 != at >> 30 {
        return None;
    }
    boot_bytes(at..end)
}

/// A word of firmware's, which a CPU polls with its caches off for the address where it is to start.
#[derive(Debug)]
pub struct ReleaseWord(u64);

impl ReleaseWord {
    /// Claims the aligned 64-bit word at `at`, which must be mapped. `None` if it is in other use.
    pub fn claim(at: u64) -> Option<Self> {
        (at.is_multiple_of(8) && at < 1 << 39 && claim(&(at..at + 8))).then_some(Self(at))
    }

    /// Has the CPU that polls it start in EL2, at [`crate::boot::secondary_entry`].
    pub fn release(&self) {
        self.publish(crate::boot::secondary_entry());
        // SAFETY: an event to all CPUs; those that do not wait for it ignore it (Arm ARM, SEV).
        unsafe { core::arch::asm!("sev", options(nomem, nostack, preserves_flags)) };
    }

    /// Empties it, so that a CPU that comes to poll there again stays.
    pub fn clear(&self) {
        self.publish(0);
    }

    fn publish(&self, value: u64) {
        // SAFETY: claimed, so no Rust object. Invalidating before the write drops what this CPU may have cached before the firmware
        // wrote there; cleaning after it makes the write visible at the Point of Coherency (Arm ARM, DC CIVAC), and the DSB waits
        // for that.
        unsafe {
            core::arch::asm!(
                "dc civac, {slot}",
                "dsb sy",
                "str {value}, [{slot}]",
                "dc civac, {slot}",
                "dsb sy",
                slot = in(reg) self.0,
                value = in(reg) value,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Bytes for stage 2 translation tables.
pub const TABLE_MEMORY: usize = 512 * 1024;

#[repr(C, align(8192))]
struct TableMemory(core::cell::UnsafeCell<[u8; TABLE_MEMORY]>);
// SAFETY: no Rust code refers to the bytes; they are reached through the one `Region` that `Region::tables` makes.
unsafe impl Sync for TableMemory {}
#[unsafe(link_section = ".uninit")]
static TABLES: TableMemory = TableMemory(core::cell::UnsafeCell::new([0; TABLE_MEMORY]));
static TABLES_TAKEN: AtomicBool = AtomicBool::new(false);

impl Region {
    /// The memory for stage 2 translation tables, in EL2's carve-out; once.
    pub fn tables() -> Option<Self> {
        let start = TABLES.0.get() as u64;
        let taken = TABLES_TAKEN.swap(true, Ordering::Relaxed);
        (!taken).then_some(Self { range: start..start + TABLE_MEMORY as u64 })
    }
}
