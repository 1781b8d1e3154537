//! Reads the rings while their CPUs write them.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use abi::trace::{MAGIC, RECORDS, Record, Ring, TIME_MASK, Trace};
use anyhow::{Context, Result, ensure};

use crate::record::decode;

/// Bytes of a record.
const RECORD: usize = 16;

/// The machine's physical memory.
pub trait Memory {
    /// Reads what is there at this moment. An aligned word that is written meanwhile is the old or the new one.
    ///
    /// # Errors
    /// There is no memory.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<()>;

    /// Writes.
    ///
    /// # Errors
    /// There is no memory.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<()>;
}

/// What was read of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The next record; its time is that since boot.
    Record(Record),
    /// So many records are missing: they were written over before they were read.
    Lost(u64),
}

/// What was read, of which CPU. What is lost has the time of the record that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The CPU.
    pub cpu: u8,
    /// Since boot, ns.
    pub time: u64,
    /// What.
    pub seen: Seen,
}

/// How far a ring has been read.
#[derive(Debug)]
struct Place {
    cpu: u8,
    address: u64,
    next: u64,
    /// The time of the last record.
    time: u64,
}

/// The reader of a machine's rings; there is to be one at a time.
#[derive(Debug)]
pub struct Reader<M> {
    memory: M,
    places: Vec<Place>,
}

impl<M: Memory> Reader<M> {
    /// The reader of the trace at `address`, as the hypervisor's log says it; `None` if there is none yet.
    ///
    /// # Errors
    /// There is no memory.
    pub fn open(memory: M, address: u64) -> Result<Option<Self>> {
        let mut reader = Self { memory, places: Vec::new() };
        if reader.word(address + offset_of!(Trace<0>, magic) as u64)? != MAGIC {
            return Ok(None);
        }
        let cpus = reader.word(address + offset_of!(Trace<0>, cpus) as u64)?;
        let ring = |cpu: u8| {
            let address =
                address + (offset_of!(Trace<0>, rings) + usize::from(cpu) * size_of::<Ring>()) as u64;
            Place { cpu, address, next: 0, time: 0 }
        };
        reader.places = (0..64).filter(|cpu| cpus >> cpu & 1 != 0).map(ring).collect();
        Ok(Some(reader))
    }

    /// The CPUs that have a ring.
    pub fn cpus(&self) -> impl Iterator<Item = u8> {
        self.places.iter().map(|place| place.cpu)
    }

    /// Adds what is new to `entries`, ring by ring.
    ///
    /// # Errors
    /// The memory has gone, or what is there is no trace.
    pub fn drain(&mut self, entries: &mut Vec<Entry>) -> Result<()> {
        let mut bytes = vec![0; RECORDS * RECORD];
        for n in 0..self.places.len() {
            let Place { cpu, address, next, mut time } = self.places[n];
            let head = self.head(address)?;
            if head == next {
                continue;
            }
            let first = next.max(head.saturating_sub(RECORDS as u64));
            let copied = self.copy(address, first, head, &mut bytes)?;
            // Record `begun` may be on its way into its place already.
            let begun = self.head(address)?;
            let kept = (begun + 1).saturating_sub(RECORDS as u64).clamp(first, head);
            let mut lost = kept - next;
            for words in &copied[(kept - first) as usize..] {
                let record = decode(*words).context("the hypervisor's trace is damaged")?;
                // Modulo what a record keeps of it, and never before the last.
                time += record.time.wrapping_sub(time) & TIME_MASK;
                if lost > 0 {
                    entries.push(Entry { cpu, time, seen: Seen::Lost(std::mem::take(&mut lost)) });
                }
                entries.push(Entry { cpu, time, seen: Seen::Record(Record { time, ..record }) });
            }
            if lost > 0 {
                entries.push(Entry { cpu, time, seen: Seen::Lost(lost) });
            }
            self.memory.write(address + offset_of!(Ring, tail) as u64, &head.to_le_bytes())?;
            self.places[n] = Place { cpu, address, next: head, time };
        }
        Ok(())
    }

    /// The records from `first` to `head` that lie in the ring at `address`.
    fn copy(&self, address: u64, first: u64, head: u64, bytes: &mut [u8]) -> Result<Vec<[u64; 2]>> {
        let (count, start) = ((head - first) as usize, first as usize % RECORDS);
        ensure!(count <= RECORDS, "the hypervisor's trace is damaged");
        let records = address + offset_of!(Ring, records) as u64;
        let (to_end, rest) = bytes[..count * RECORD].split_at_mut(count.min(RECORDS - start) * RECORD);
        self.memory.read(records + (start * RECORD) as u64, to_end)?;
        self.memory.read(records, rest)?;
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let words = bytes[..count * RECORD].as_chunks::<8>().0.as_chunks::<2>().0;
        Ok(words.iter().map(|[first, second]| [word(first), word(second)]).collect())
    }

    /// How many records have been written, before and after whatever is read between two calls.
    fn head(&self, address: u64) -> Result<u64> {
        fence(Ordering::SeqCst);
        let head = self.word(address + offset_of!(Ring, head) as u64);
        fence(Ordering::SeqCst);
        head
    }

    fn word(&self, address: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.memory.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::trace::Kind;
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// A trace of one CPU, which goes on writing while it is read: before each word that is read it has made so many more stores.
    struct Machine {
        words: RefCell<Vec<u64>>,
        stores: RefCell<u64>,
        pace: RefCell<Box<dyn Iterator<Item = u64>>>,
    }

    const RING: usize = offset_of!(Trace<0>, rings) / 8;

    fn record(n: u64) -> Record {
        Record { time: n * 10, kind: Kind::Exit, vcpu: (n % 64) as u8, argument: n }
    }

    impl Machine {
        fn new(pace: impl Iterator<Item = u64> + 'static) -> Self {
            let mut words = vec![0; RING + size_of::<Ring>() / 8];
            (words[0], words[2]) = (MAGIC, 1);
            Self { words: words.into(), stores: 0.into(), pace: RefCell::new(Box::new(pace)) }
        }

        /// The stores of [`Ring::push`], one at a time.
        fn store(&self) {
            let (mut words, mut stores) = (self.words.borrow_mut(), self.stores.borrow_mut());
            let (n, step) = (*stores / 3, *stores % 3);
            let place = RING + 2 + n as usize % RECORDS * 2;
            match step {
                0 => words[place] = record(n).encode()[0],
                1 => words[place + 1] = record(n).encode()[1],
                _ => words[RING] = n + 1,
            }
            *stores += 1;
        }
    }

    impl Memory for &Machine {
        fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
            for (n, bytes) in into.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let stores = self.pace.borrow_mut().next().unwrap_or(0);
                (0..stores).for_each(|_| self.store());
                *bytes = self.words.borrow()[address as usize / 8 + n].to_le_bytes();
            }
            Ok(())
        }

        fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
            self.words.borrow_mut()[address as usize / 8] = u64::from_le_bytes(bytes.try_into()?);
            Ok(())
        }
    }

    /// Reads so often, then what is left when nobody writes; returns how many records came, and how many were lost.
    fn read(machine: &Machine, times: usize) -> (u64, u64) {
        let mut reader = Reader::open(machine, 0).unwrap().unwrap();
        let mut entries = Vec::new();
        for _ in 0..times {
            reader.drain(&mut entries).unwrap();
        }
        *machine.pace.borrow_mut() = Box::new(std::iter::empty());
        reader.drain(&mut entries).unwrap();
        let (mut next, mut lost) = (0, 0);
        for entry in entries {
            match entry.seen {
                Seen::Record(seen) => {
                    assert_eq!(seen, record(next));
                    next += 1;
                }
                Seen::Lost(count) => {
                    assert!(count > 0);
                    (next, lost) = (next + count, lost + count);
                }
            }
        }
        assert_eq!(next, *machine.stores.borrow() / 3, "not all is accounted for");
        assert_eq!(machine.words.borrow()[RING + 1], next);
        (next - lost, lost)
    }

    #[test]
    fn a_slow_writer_loses_nothing_and_one_that_nobody_reads_all_but_a_ringful() {
        // 300 records for every 1,000 words that are read, of which they take 600.
        let slow = (0..).map(|n| if n % 1_000 == 0 { 900 } else { 0 });
        let (came, lost) = read(&Machine::new(slow), 2_000);
        assert!(came > 1_000 && lost == 0, "{came}, {lost}");
        // One place may be in the making.
        let (came, lost) = read(&Machine::new(std::iter::once(0).chain([0, 30_000])), 1);
        assert_eq!((came, lost), (RECORDS as u64 - 1, 10_001 - RECORDS as u64));
    }

    #[test]
    fn what_is_no_trace_is_none() {
        let machine = Machine::new(std::iter::empty());
        machine.words.borrow_mut()[0] += 1;
        assert!(Reader::open(&machine, 0).unwrap().is_none());
    }

    #[test]
    fn times_go_on_when_what_a_record_keeps_of_them_wraps() {
        let machine = Machine::new(std::iter::empty());
        {
            let mut words = machine.words.borrow_mut();
            words[RING] = 3;
            for (n, time) in [TIME_MASK - 1, 1, 2].into_iter().enumerate() {
                words[RING + 2 + n * 2] = Record { time, ..record(0) }.encode()[0];
            }
        }
        let mut entries = Vec::new();
        Reader::open(&machine, 0).unwrap().unwrap().drain(&mut entries).unwrap();
        let times: Vec<u64> = entries.iter().map(|entry| entry.time).collect();
        assert_eq!(times, [TIME_MASK - 1, TIME_MASK + 2, TIME_MASK + 3]);
    }

    proptest! {
        /// Whatever the writer does between any two words that are read: no record is torn, made up, repeated or silently missing.
        #[test]
        fn nothing_that_is_read_is_torn(bursts in prop::collection::vec((0u64..4000, 0usize..300), 1..40), slow in 1u64..40) {
            let pace = bursts.into_iter().flat_map(move |(burst, calm)| {
                std::iter::once(burst).chain((0..calm as u64).map(move |n| u64::from(n % slow == 0)))
            });
            read(&Machine::new(pace), 20);
        }
    }
}
