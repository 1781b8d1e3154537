//! The trace: what each CPU did, as records in a ring a CPU, in memory that a reader outside sees too.
//!
//! A ring has one writer, its CPU, which never waits and takes no lock. It writes a record and then says so in [`Ring::head`]; when the
//! ring is full it goes over the oldest ones. A reader copies records and looks at `head` again: those that may have been written over
//! meanwhile are lost, and it knows how many. Where a trace was not read in time there is a gap, and never something that did not happen.
//!
//! [`Trace`] lies in EL2's own memory, at an address that the log says; a reader without a log finds it by [`MAGIC`].

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// What [`Trace::magic`] is: the layout described here.
pub const MAGIC: u64 = u64::from_le_bytes(*b"MobiTrc1");
/// Records of a ring.
pub const RECORDS: usize = 512;
/// What of a record is its time: nanoseconds since boot, modulo 2^48 (78 hours).
pub const TIME_MASK: u64 = (1 << 48) - 1;
/// The number of a vCPU where there is none.
const NOBODY: u8 = u8::MAX;

/// The rings of all CPUs.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Trace<const CPUS: usize> {
    /// [`MAGIC`], once the rings may be read.
    pub magic: AtomicU64,
    /// Whether records are written: not 0. EL2's commands change it, and the reader may; a CPU looks at it when it picks a vCPU.
    pub on: AtomicU64,
    /// The CPUs that have a ring in use: bit n = CPU n.
    pub cpus: AtomicU64,
    /// Zero.
    pub reserved: [AtomicU64; 5],
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
    /// Zero.
    pub reserved: [AtomicU64; 6],
    /// See [`Record::encode`].
    pub records: [[AtomicU64; 2]; RECORDS],
}

/// What happened on a CPU, and when: nanoseconds since boot, of which a ring keeps [`TIME_MASK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub time: u64,
    /// What.
    pub event: Event,
}

/// What happened. vCPUs are numbered over all VMs, in the machine file's order. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The scheduler gave the CPU to this vCPU, or let it have it for longer.
    Run {
        /// Who.
        vcpu: u8,
        /// For how long it has waited for a CPU since boot, this time included.
        waited: u64,
    },
    /// The CPU has nothing to run.
    Idle,
    /// The vCPU that had the CPU sleeps.
    Sleep {
        /// Who.
        vcpu: u8,
    },
    /// The vCPU that had the CPU waits for one.
    Preempt {
        /// Who.
        vcpu: u8,
    },
    /// The CPU came from the guest into EL2.
    Exit {
        /// Who ran.
        vcpu: u8,
        /// ESR_EL2 of a trap; 1: a physical interrupt; 2: an SError.
        syndrome: u32,
        /// The INTID of an interrupt (1,020 or more: it is gone), the page of an abort's intermediate physical address, or else the
        /// guest's w0: what a hypercall asks for.
        detail: u32,
    },
    /// The CPU took a physical interrupt while no guest ran.
    Interrupt {
        /// Its INTID.
        intid: u32,
    },
    /// An interrupt became pending for a vCPU by another's doing or a device's; if it sleeps, that wakes it. Its own timer's is an
    /// [`Event::Exit`], or wakes it without further ado.
    Inject {
        /// For whom.
        vcpu: u8,
    },
    /// The vCPU that had the CPU has used up its budget.
    Exhausted {
        /// Whose.
        vcpu: u8,
        /// When some of it comes back.
        until: u64,
    },
    /// A vCPU said that its job is done.
    Job {
        /// Who.
        vcpu: u8,
        /// How many of its jobs since boot were done after their deadline.
        misses: u64,
    },
}

impl Event {
    /// As it lies in memory, without its time: vCPU in bits 55:48 of the first word (0xff: none), kind in 63:56; the second word is
    /// the event's own.
    #[inline]
    pub const fn encode(self) -> [u64; 2] {
        let (kind, vcpu, argument) = match self {
            Self::Run { vcpu, waited } => (1, vcpu, waited),
            Self::Idle => (2, NOBODY, 0),
            Self::Sleep { vcpu } => (3, vcpu, 0),
            Self::Preempt { vcpu } => (4, vcpu, 0),
            Self::Exit { vcpu, syndrome, detail } => (5, vcpu, (detail as u64) << 32 | syndrome as u64),
            Self::Interrupt { intid } => (6, NOBODY, intid as u64),
            Self::Inject { vcpu } => (7, vcpu, 0),
            Self::Exhausted { vcpu, until } => (8, vcpu, until),
            Self::Job { vcpu, misses } => (9, vcpu, misses),
        };
        [(vcpu as u64) << 48 | kind << 56, argument]
    }
}

impl Record {
    /// As it lies in memory: the event's words with the time in bits 47:0 of the first.
    pub fn encode(self) -> [u64; 2] {
        let [first, argument] = self.event.encode();
        [first | self.time & TIME_MASK, argument]
    }

    /// What these words say; `None` if there is no such kind.
    pub fn decode([first, argument]: [u64; 2]) -> Option<Self> {
        let (vcpu, low) = ((first >> 48) as u8, argument as u32);
        let event = match first >> 56 {
            1 => Event::Run { vcpu, waited: argument },
            2 => Event::Idle,
            3 => Event::Sleep { vcpu },
            4 => Event::Preempt { vcpu },
            5 => Event::Exit { vcpu, syndrome: low, detail: (argument >> 32) as u32 },
            6 => Event::Interrupt { intid: low },
            7 => Event::Inject { vcpu },
            8 => Event::Exhausted { vcpu, until: argument },
            9 => Event::Job { vcpu, misses: argument },
            _ => return None,
        };
        Some(Self { time: first & TIME_MASK, event })
    }
}

impl Ring {
    const fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            reserved: [const { AtomicU64::new(0) }; 6],
            records: [const { [const { AtomicU64::new(0) }; 2] }; RECORDS],
        }
    }

    /// Adds a record ([`Record::encode`]); for the ring's CPU alone. Returns how many the reader has not seen, this one included.
    pub fn push(&self, record: [u64; 2]) -> u64 {
        let head = self.head.load(Ordering::Relaxed);
        // Who sees a word of this record sees also that the one before was counted, so that it knows that this place was being written.
        fence(Ordering::Release);
        let place = &self.records[head as usize % RECORDS];
        for (place, word) in place.iter().zip(record) {
            place.store(word, Ordering::Relaxed);
        }
        let head = head.wrapping_add(1);
        self.head.store(head, Ordering::Release);
        head.wrapping_sub(self.tail.load(Ordering::Relaxed))
    }
}

impl<const CPUS: usize> Trace<CPUS> {
    /// Empty, off, and not to be read before [`Self::open`]. All its bytes are 0, so that a static one needs no place in an image.
    pub const fn new() -> Self {
        Self {
            magic: AtomicU64::new(0),
            on: AtomicU64::new(0),
            cpus: AtomicU64::new(0),
            reserved: [const { AtomicU64::new(0) }; 5],
            rings: [const { Ring::new() }; CPUS],
        }
    }

    /// From now on it may be read.
    pub fn open(&self, cpus: u64, on: bool) {
        self.on.store(on.into(), Ordering::Relaxed);
        self.cpus.store(cpus, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }
}

impl<const CPUS: usize> Default for Trace<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_the_documented_one() {
        assert_eq!(
            (offset_of!(Trace<8>, on), offset_of!(Trace<8>, cpus), offset_of!(Trace<8>, rings)),
            (8, 16, 64)
        );
        assert_eq!(
            (offset_of!(Ring, tail), offset_of!(Ring, records), size_of::<Ring>()),
            (8, 64, 64 + 512 * 16)
        );
    }

    #[test]
    fn a_ring_counts_what_nobody_has_read_and_keeps_the_latest() {
        let ring = Ring::new();
        for n in 0..2 * RECORDS as u64 {
            assert_eq!(ring.push(Record { time: n, event: Event::Idle }.encode()), n + 1);
        }
        ring.tail.store(1_000, Ordering::Relaxed);
        assert_eq!(ring.push(Record { time: 7, event: Event::Preempt { vcpu: 3 } }.encode()), 25);
        let word = |place: usize| ring.records[place][0].load(Ordering::Relaxed);
        assert_eq!((word(0), word(1)), (7 | 3 << 48 | 4 << 56, 513 | 0xff << 48 | 2 << 56));
    }

    #[test]
    fn nothing_is_not_a_record() {
        assert_eq!(Record::decode([0; 2]), None);
        assert_eq!(Record::decode([10 << 56, 0]), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(time: u64, vcpu: u8, a: u32, b: u32, long: u64, kind in 0usize..9) {
            let event = [
                Event::Run { vcpu, waited: long },
                Event::Idle,
                Event::Sleep { vcpu },
                Event::Preempt { vcpu },
                Event::Exit { vcpu, syndrome: a, detail: b },
                Event::Interrupt { intid: a },
                Event::Inject { vcpu },
                Event::Exhausted { vcpu, until: long },
                Event::Job { vcpu, misses: long },
            ][kind];
            prop_assert_eq!(Record::decode(Record { time, event }.encode()), Some(Record { time: time & TIME_MASK, event }));
        }
    }
}
