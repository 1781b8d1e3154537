//! Channels: a byte stream each way and 32 lines each way between two VMs, over a page that the hypervisor lends
//! to both ([`abi::channel`]). Within one VM a [`Local`] does the same, for tests and for machines without a hypervisor.

use core::convert::Infallible;
use core::sync::atomic::{Ordering, fence};

use abi::smccc::CHANNEL_NOTIFY;
use embedded_io::{ErrorType, Read, Write};

use crate::flags::Flags;
use crate::interrupt::{self, Handler, Trigger};
use crate::port;
use crate::pv;
use crate::pv::gpio::Lines;
use crate::pv::page::{Page, RING_SIZE, Side};
use crate::sem::Semaphore;

/// The most channels of a VM.
pub(crate) const MAX_CHANNELS: usize = 8;

/// A channel of this VM or a local one, as a serial line: what one end writes the other reads.
#[derive(Debug)]
pub struct Channel {
    reader: Reader,
    writer: Writer,
    lines: Lines,
}

/// The receiving half of a [`Channel`].
#[derive(Debug)]
pub struct Reader {
    end: End,
    /// How many bytes were read, modulo 2^32.
    position: u32,
}

/// The sending half of a [`Channel`].
#[derive(Debug)]
pub struct Writer {
    end: End,
    /// How many bytes were written, modulo 2^32.
    position: u32,
}

/// One end of a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    page: &'static Page,
    /// This end's index in the page.
    index: usize,
    bell: Bell,
    /// What this end waits for.
    pub(crate) events: &'static Events,
}

/// How the other end is told.
#[derive(Clone, Copy, Debug)]
enum Bell {
    Hypervisor(u32),
    Local(&'static Events),
}

/// What an end waits for. A ring of its bell may mean any of it.
#[derive(Debug)]
pub(crate) struct Events {
    readable: Semaphore,
    writable: Semaphore,
    /// By input line.
    pub(crate) lines: Flags,
}

impl Events {
    const fn new() -> Self {
        Self { readable: Semaphore::binary(), writable: Semaphore::binary(), lines: Flags::new() }
    }
}

impl Handler for Events {
    fn handle(&self, _intid: u32) {
        self.readable.give();
        self.writable.give();
        self.lines.set(u32::MAX);
    }
}

/// By the channel's place in the device tree.
static EVENTS: [Events; MAX_CHANNELS] = [const { Events::new() }; MAX_CHANNELS];

impl Channel {
    /// This VM's end of the channel that the machine file calls `name`; once.
    pub fn open(name: &str) -> Option<Self> {
        let (index, channel, page) = port::channel(name)?;
        let events = &EVENTS[index];
        interrupt::attach(channel.intid, Trigger::Edge, events).ok()?;
        let bell = Bell::Hypervisor(channel.number);
        Some(Self::new(End { page, index: channel.end, bell, events }))
    }

    /// Goes on where the page says that this end was: it may have been restarted.
    fn new(end: End) -> Self {
        let position = |word: &core::sync::atomic::AtomicU32| word.load(Ordering::Relaxed);
        Self {
            reader: Reader { end, position: position(&end.mine().read) },
            writer: Writer { end, position: position(&end.mine().written) },
            lines: Lines::new(end),
        }
    }

    /// Whether this is the end of the VM that comes first in the machine file. (Of a [`Local`], it is the first end.)
    pub fn is_first(&self) -> bool {
        self.reader.end.index == 0
    }

    /// Its parts, for different tasks.
    pub fn split(self) -> (Reader, Writer, Lines) {
        (self.reader, self.writer, self.lines)
    }
}

/// The page and the bells of a channel whose two ends are in this VM.
///
/// ```
/// use embedded_io::{Read, Write};
/// use mobi_rtos::pv::channel::Local;
/// static LOCAL: Local = Local::new();
///
/// let (mut here, mut there) = LOCAL.ends().unwrap();
/// here.write_all(b"hello").unwrap();
/// let mut text = [0; 5];
/// there.read_exact(&mut text).unwrap();
/// assert_eq!(&text, b"hello");
/// ```
#[derive(Debug)]
pub struct Local {
    page: Page,
    events: [Events; 2],
    ends: Semaphore,
}

impl Local {
    /// A channel that nothing was sent through.
    pub const fn new() -> Self {
        Self { page: Page::new(), events: [const { Events::new() }; 2], ends: Semaphore::new(1) }
    }

    /// Its two ends; once.
    pub fn ends(&'static self) -> Option<(Channel, Channel)> {
        let [first, second] = &self.events;
        let end = |index, events, other| {
            Channel::new(End { page: &self.page, index, bell: Bell::Local(other), events })
        };
        self.ends.try_take().then(|| (end(0, first, second), end(1, second, first)))
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

impl End {
    pub(crate) fn mine(&self) -> &'static Side {
        &self.page.sides[self.index]
    }

    pub(crate) fn others(&self) -> &'static Side {
        &self.page.sides[1 - self.index]
    }

    /// Rings the bell at the other end.
    pub(crate) fn notify(&self) {
        match self.bell {
            // That nobody is there is no error: somebody may come, and look into the page.
            Bell::Hypervisor(number) => _ = pv::call(CHANNEL_NOTIFY, [number.into(), 0, 0]),
            Bell::Local(events) => events.handle(0),
        }
    }
}

impl Reader {
    /// Reads what there is, up to the buffer's size; never waits.
    fn try_read(&mut self, buffer: &mut [u8]) -> usize {
        let (mine, others) = (self.end.mine(), self.end.others());
        let there =
            (others.written.load(Ordering::Acquire).wrapping_sub(self.position) as usize).min(RING_SIZE);
        let count = there.min(buffer.len());
        for (offset, byte) in buffer[..count].iter_mut().enumerate() {
            *byte = others.ring[(self.position as usize).wrapping_add(offset) % RING_SIZE]
                .load(Ordering::Relaxed);
        }
        let before = self.position;
        self.position = before.wrapping_add(count as u32);
        mine.read.store(self.position, Ordering::Release);
        // A writer that has found the ring full since sleeps. It first fills the ring, then looks at `read`; we do the
        // reverse: one of the two sees what the other did.
        fence(Ordering::SeqCst);
        if count > 0 && others.written.load(Ordering::Relaxed).wrapping_sub(before) as usize >= RING_SIZE {
            self.end.notify();
        }
        count
    }
}

impl Writer {
    /// Writes as much as there is room for; never waits.
    fn try_write(&mut self, bytes: &[u8]) -> usize {
        let (mine, others) = (self.end.mine(), self.end.others());
        let used = (self.position.wrapping_sub(others.read.load(Ordering::Acquire)) as usize).min(RING_SIZE);
        let count = bytes.len().min(RING_SIZE - used);
        for (offset, &byte) in bytes[..count].iter().enumerate() {
            mine.ring[(self.position as usize).wrapping_add(offset) % RING_SIZE]
                .store(byte, Ordering::Relaxed);
        }
        let before = self.position;
        self.position = before.wrapping_add(count as u32);
        mine.written.store(self.position, Ordering::Release);
        // As in `try_read`: a reader that has found the ring empty sleeps.
        fence(Ordering::SeqCst);
        if count > 0 && others.read.load(Ordering::Relaxed) == before {
            self.end.notify();
        }
        count
    }
}

impl ErrorType for Reader {
    type Error = Infallible;
}

impl ErrorType for Writer {
    type Error = Infallible;
}

impl ErrorType for Channel {
    type Error = Infallible;
}

impl Read for Reader {
    /// Waits until there is something and reads what there is of it.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        loop {
            let count = self.try_read(buffer);
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.end.events.readable.take();
        }
    }
}

impl Write for Writer {
    /// Waits until there is room and writes what there is room for.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        loop {
            let count = self.try_write(bytes);
            if count > 0 || bytes.is_empty() {
                return Ok(count);
            }
            self.end.events.writable.take();
        }
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        self.reader.read(buffer)
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        self.writer.flush()
    }
}
