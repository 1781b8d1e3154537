//! The trace: what each CPU did, as records in a ring a CPU, in memory that a reader outside sees too.
//!
//! A ring has one writer, its CPU, which never waits and takes no lock. It writes a record and then counts it in [`Ring::head`]; when the
//! ring is full it goes over the oldest ones. A reader copies records and looks at `head` again: those that may have been written over
//! meanwhile are lost, and it knows how many. Where a trace was not read in time there is a gap, and never something that did not happen.
//!
//! [`Trace`] lies in EL2's own memory, at an address that the log says; a reader without a log finds it by [`MAGIC`].

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// What [`Trace::magic`] is: the layout described here.
pub const MAGIC: u64 = u64::from_le_bytes(*b"MobiTrc1");
/// Records of a ring.
pub const RECORDS: usize = 512;
/// What of a time is recorded: it is modulo 2^48 ns (78 hours).
pub const TIME_MASK: u64 = (1 << 48) - 1;

/// The rings of all CPUs.
#[repr(C)]
#[derive(Debug)]
pub struct Trace<const CPUS: usize> {
    /// [`MAGIC`], once the rings may be read.
    pub magic: AtomicU64,
    /// Whether records are written: not 0.
    pub on: AtomicU64,
    /// The CPUs whose rings are in use: bit n = CPU n.
    pub cpus: AtomicU64,
    /// By CPU.
    pub rings: [Ring; CPUS],
}

/// One CPU's records.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Ring {
    /// How many records have been written. Record `n` is at `n` modulo [`RECORDS`] until record `n` + [`RECORDS`] is begun.
    pub head: AtomicU64,
    /// How many of them the reader has seen; written by the reader alone.
    pub tail: AtomicU64,
    /// See [`Record::encode`].
    pub records: [[AtomicU64; 2]; RECORDS],
}

/// What happened on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When: ns since boot, of which a ring keeps [`TIME_MASK`].
    pub time: u64,
    /// What.
    pub kind: Kind,
    /// The vCPU that it is about. They are numbered over all VMs, in the machine file's order.
    pub vcpu: u8,
    /// See [`Kind`].
    pub argument: u64,
}

/// What a record says of its vCPU, and its argument, which is 0 where nothing is said of one. Times are ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// It has the CPU, or has it for longer. For how long it has waited for one since boot, this time included.
    Run,
    /// Nobody has the CPU.
    Idle,
    /// It had the CPU, and sleeps.
    Sleep,
    /// It had the CPU, and waits for one.
    Preempt,
    /// It had the CPU, and has used up its budget. When some of that comes back.
    Exhausted,
    /// The CPU came from it into EL2. Bits 31:0: ESR_EL2 of a trap or an SError; 1: an interrupt. Bits 63:32: an interrupt's INTID
    /// (1,020 or more: it has gone), the page of an abort's intermediate physical address, or else w0: what a hypercall asks for.
    Exit,
    /// Another vCPU, a device or EL2 made an interrupt pending for it, which wakes it if it sleeps. (Its own timer's is an
    /// [`Kind::Exit`], or wakes it without further ado.)
    Inject,
    /// It has said that its job is done. How many of its jobs since boot were done after their deadlines.
    Job,
    /// The CPU's records begin, or begin again: nothing is known of what was before.
    Begin,
}

impl Record {
    /// As it lies in memory: time in bits 47:0 of the first word, vCPU in 55:48, kind in 63:56; the second word is the argument.
    pub const fn encode(self) -> [u64; 2] {
        [self.time & TIME_MASK | (self.vcpu as u64) << 48 | (self.kind as u64) << 56, self.argument]
    }
}

impl Ring {
    const fn empty() -> Self {
        let records = [const { [const { AtomicU64::new(0) }; 2] }; RECORDS];
        Self { head: AtomicU64::new(0), tail: AtomicU64::new(0), records }
    }

    /// Adds a record; for the ring's CPU alone. Returns how many the reader has not seen, this one included.
    pub fn push(&self, record: Record) -> u64 {
        let head = self.head.load(Ordering::Relaxed);
        // Who sees a word of this record sees also that the one before was counted, so that it knows that this place was being written.
        fence(Ordering::Release);
        for (place, word) in self.records[head as usize % RECORDS].iter().zip(record.encode()) {
            place.store(word, Ordering::Relaxed);
        }
        self.head.store(head.wrapping_add(1), Ordering::Release);
        head.wrapping_add(1).wrapping_sub(self.tail.load(Ordering::Relaxed))
    }
}

impl<const CPUS: usize> Trace<CPUS> {
    /// Off, and not to be read before [`Self::open`]. All its bytes are 0, so that a static one needs no place in an image.
    pub const fn empty() -> Self {
        Self {
            magic: AtomicU64::new(0),
            on: AtomicU64::new(0),
            cpus: AtomicU64::new(0),
            rings: [const { Ring::empty() }; CPUS],
        }
    }

    /// From now on it may be read: the rings of `cpus`.
    pub fn open(&self, cpus: u64, on: bool) {
        self.on.store(on.into(), Ordering::Relaxed);
        self.cpus.store(cpus, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn the_layout_is_the_documented_one() {
        let trace = (offset_of!(Trace<8>, on), offset_of!(Trace<8>, cpus), offset_of!(Trace<8>, rings));
        assert_eq!(trace, (8, 16, 64));
        let ring = (offset_of!(Ring, tail), offset_of!(Ring, records), size_of::<Ring>());
        assert_eq!(ring, (8, 16, 8192 + 64));
    }

    #[test]
    fn a_ring_keeps_the_latest_and_counts_what_nobody_has_read() {
        let trace = Trace::<1>::empty();
        let [ring] = &trace.rings;
        let record = |time, kind, vcpu| Record { time, kind, vcpu, argument: 5 };
        for n in 0..2 * RECORDS as u64 {
            assert_eq!(ring.push(record(n, Kind::Idle, 0)), n + 1);
        }
        ring.tail.store(1_000, Ordering::Relaxed);
        assert_eq!(ring.push(record(7, Kind::Preempt, 9)), 25);
        let first = |place: usize| ring.records[place][0].load(Ordering::Relaxed);
        assert_eq!((first(0), first(1)), (7 | 9 << 48 | 3 << 56, 513 | 1 << 56));
    }
}
