//! The consoles of all VMs and the hypervisor's log over one wire.
//!
//! Output waits in a ring a channel and goes out as the wire takes it: EL2 never waits for a device. A VM whose ring is full sees a
//! full transmit FIFO; log lines that do not fit are counted and reported. Input waits in a ring a channel until the run loop hands it
//! to the VM's UART, or to the operator's commands ([`take_input`]).
//!
//! The wire and its format are chosen by the boot arguments: `console=mux` (the runner, over the UART), `console=lockstep` (the
//! runner, by semihosting, under a deterministic clock) or neither: a person at a terminal.

mod lockstep;
mod plain;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use abi::mux::{Channel, Decoder, Encoder, Event, RX_WINDOW};
use arch::cpu;
use drivers::pl011::Pl011;
use lock::TicketMutex;
use spin::Once;

use lockstep::Lockstep;
use plain::Plain;

/// Bytes of output that a VM can have waiting.
const VM_RING: usize = 1024;
/// Bytes of log that can be waiting: more than boot prints.
const LOG_RING: usize = 8192;
/// Bytes that one call moves each way at the most, so that interrupts are masked for a bounded time. More than an eighth of the transmit
/// FIFO, whatever its depth: it interrupts when it has run down to that.
const BURST: usize = 8;
/// Bytes of one channel before another one gets its turn.
const TURN: usize = 64;

static CONSOLE: Once<TicketMutex<Console>> = Once::new();
/// Some input ring is not empty. Set under the lock; read without it on every pass of the run loop.
static INPUT: AtomicBool = AtomicBool::new(false);

/// VMs as a bit set, bit n = VM n.
pub type VmSet = u64;

enum Wire {
    Uart { uart: Pl011, format: Format, pending: heapless::Deque<u8, 8> },
    Lockstep(Lockstep),
}

enum Format {
    Mux(Encoder, Decoder),
    Plain(Plain),
}

struct Output {
    ring: VecDeque<u8>,
    size: usize,
    /// A byte was refused since the ring was last seen to have room.
    full: bool,
}

impl Output {
    fn new(size: usize) -> Self {
        Self { ring: VecDeque::with_capacity(size), size, full: false }
    }
}

struct Console {
    wire: Wire,
    /// By [`Channel::index`].
    outputs: Vec<Output>,
    /// The same.
    inputs: Vec<VecDeque<u8>>,
    credits: Vec<usize>,
    /// The channel whose turn it is, and how much of the turn is left.
    turn: (usize, usize),
    /// The channel whose bytes were put on the wire last.
    sent: Option<Channel>,
    lost: usize,
}

/// Starts the log on the UART found at boot, as `arguments` say. VMs get their consoles by [`add_vms`].
pub fn init(uart: Pl011, arguments: &str) {
    let console = arguments.split_ascii_whitespace().find_map(|a| a.strip_prefix("console="));
    let wire = match console {
        Some("lockstep") => Lockstep::open().map(Wire::Lockstep),
        _ => None,
    };
    let wire = wire.unwrap_or_else(|| Wire::Uart {
        uart,
        format: match console {
            Some("mux") => Format::Mux(Encoder::default(), Decoder::default()),
            _ => Format::Plain(Plain::new()),
        },
        pending: heapless::Deque::new(),
    });
    CONSOLE.call_once(|| {
        TicketMutex::new(Console {
            wire,
            outputs: alloc::vec![Output::new(LOG_RING)],
            inputs: alloc::vec![VecDeque::with_capacity(RX_WINDOW)],
            credits: alloc::vec![0],
            turn: (0, TURN),
            sent: None,
            lost: 0,
        })
    });
}

/// Adds the consoles of `count` VMs.
pub fn add_vms(count: usize) {
    with(|console| {
        for _ in 0..count {
            console.outputs.push(Output::new(VM_RING));
            console.inputs.push(VecDeque::with_capacity(RX_WINDOW));
            console.credits.push(0);
        }
    });
}

fn with<R>(f: impl FnOnce(&mut Console) -> R) -> Option<R> {
    let console = CONSOLE.get()?;
    Some(cpu::masked(|| f(&mut console.lock())))
}

/// Appends a line to the hypervisor's log.
pub fn log(line: fmt::Arguments<'_>) {
    with(|console| {
        if console.lost > 0 {
            let lost = core::mem::take(&mut console.lost);
            let _ = writeln!(LogWriter(console), "[{lost} bytes of log lost]");
        }
        let _ = LogWriter(console).write_fmt(line);
        console.pump();
    });
}

/// Formats into the log.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => { $crate::console::log(format_args!("{}\n", format_args!($($argument)*))) };
}

/// As much of `bytes` as fits goes to the VM's console; returns how much.
pub fn write(vm: usize, bytes: &[u8]) -> usize {
    with(|console| {
        let plain = console.unfocused(vm + 1);
        let Some(output) = console.outputs.get_mut(vm + 1) else { return bytes.len() };
        if plain {
            // Nobody looks: keep the latest, so that the guest never waits for a person.
            for &byte in bytes {
                if output.ring.len() == output.size {
                    output.ring.pop_front();
                }
                output.ring.push_back(byte);
            }
            return bytes.len();
        }
        let taken = bytes.len().min(output.size - output.ring.len());
        output.full |= taken < bytes.len();
        output.ring.extend(&bytes[..taken]);
        console.pump();
        taken
    })
    .unwrap_or(bytes.len())
}

/// Bytes that the VM's console takes at this moment.
pub fn room(vm: usize) -> usize {
    with(|console| console.outputs.get(vm + 1).map_or(0, |output| output.size - output.ring.len()))
        .unwrap_or(0)
}

/// The VM's UART has handed `count` bytes of input to its guest.
pub fn consumed(vm: usize, count: usize) {
    with(|console| {
        if let Some(credit) = console.credits.get_mut(vm + 1) {
            *credit += count;
            console.pump();
        }
    });
}

/// The UART interrupted: takes bytes that have come in. Returns the VM that they are for, if any.
pub fn receive() -> Option<usize> {
    with(|console| console.receive()?.vm_index().map(usize::from)).flatten()
}

/// There may be room on the wire: moves bytes there. Returns the VMs that found their console full and have room again, and the VM whose
/// bytes were sent, if any.
pub fn send() -> (VmSet, Option<usize>) {
    with(|console| {
        console.sent = None;
        console.pump();
        let mut ready = 0;
        for (vm, output) in console.outputs.iter_mut().skip(1).enumerate() {
            if output.full && output.ring.len() <= output.size / 2 {
                output.full = false;
                ready |= 1 << vm;
            }
        }
        (ready, console.sent.and_then(Channel::vm_index).map(usize::from))
    })
    .unwrap_or((0, None))
}

/// In lockstep: lets the runner look at the machine, which stands still meanwhile.
pub fn sync() {
    with(|Console { wire, inputs, .. }| {
        if let Wire::Lockstep(lockstep) = wire {
            lockstep.exchange(&mut heapless::Vec::new(), |event| accept(inputs, event));
        }
    });
}

/// Whether [`take_input`] has something.
pub fn has_input() -> bool {
    INPUT.load(Ordering::Relaxed)
}

/// Some input of one channel: how many bytes were put into `into`, and whose. `None` when there is no more. That of the log's channel
/// counts as taken by this; a VM's when its guest has it ([`consumed`]).
pub fn take_input(into: &mut [u8; 32]) -> Option<(Channel, usize)> {
    with(|console| {
        for (index, ring) in console.inputs.iter_mut().enumerate() {
            let count = ring.len().min(into.len());
            if count > 0 {
                for (slot, byte) in into.iter_mut().zip(ring.drain(..count)) {
                    *slot = byte;
                }
                if index == 0 {
                    console.credits[0] += count;
                }
                return Some((channel(index)?, count));
            }
        }
        INPUT.store(false, Ordering::Relaxed);
        None
    })
    .flatten()
}

/// Tells the runner that the machine ends, and waits until all output is out.
pub fn end(success: bool) {
    with_whatever(|console| {
        while console.pump() {}
        if let Wire::Uart { format: Format::Mux(encoder, _), pending, .. } = &mut console.wire {
            encoder.end(success, |byte| _ = pending.push_back(byte));
        }
        while console.pump() {}
    });
}

/// Waits until all output is out. For a panic.
fn flush() {
    with_whatever(|console| while console.pump() {});
}

/// At the end of the machine: uses the console even if it has to be left alone by others meanwhile.
fn with_whatever(f: impl FnOnce(&mut Console)) {
    // Whatever the CPU that holds the lock was doing, it is not going to let go of it after a panic: then the lock is left alone and
    // the last bytes stay where they are.
    let Some(console) = CONSOLE.get() else { return };
    for _ in 0..1_000_000 {
        if let Some(mut console) = console.try_lock() {
            return f(&mut console);
        }
        cpu::relax();
    }
}

/// Prints a report that must get out, whatever state the console is in.
pub fn emergency(report: fmt::Arguments<'_>) {
    flush();
    log(report);
    flush();
}

impl Console {
    fn unfocused(&self, channel: usize) -> bool {
        matches!(&self.wire, Wire::Uart { format: Format::Plain(plain), .. } if !plain.shows(channel))
    }

    /// The next byte to send, by turns: a line, or [`TURN`] bytes, a channel.
    fn next_byte(&mut self) -> Option<(Channel, u8)> {
        for _ in 0..=self.outputs.len() {
            let (index, left) = self.turn;
            let byte = match left {
                0 => None,
                _ if self.unfocused(index) => None,
                _ => self.outputs[index].ring.pop_front(),
            };
            if let Some(byte) = byte {
                self.turn.1 = if byte == b'\n' { 0 } else { left - 1 };
                return Some((channel(index)?, byte));
            }
            self.turn = ((index + 1) % self.outputs.len(), TURN);
        }
        None
    }

    /// Moves output to the wire; true if more is waiting and the wire took some.
    fn pump(&mut self) -> bool {
        match &mut self.wire {
            Wire::Uart { .. } => self.pump_uart(),
            Wire::Lockstep(_) => self.exchange(),
        }
    }

    fn pump_uart(&mut self) -> bool {
        for _ in 0..BURST {
            if !self.refill() {
                if let Wire::Uart { uart, .. } = &mut self.wire {
                    uart.set_tx_interrupt(false);
                }
                return false;
            }
            let Wire::Uart { uart, pending, .. } = &mut self.wire else { return false };
            match pending.front() {
                Some(&byte) if uart.try_write(byte) => _ = pending.pop_front(),
                _ => break,
            }
        }
        if let Wire::Uart { uart, .. } = &mut self.wire {
            uart.set_tx_interrupt(true);
        }
        true
    }

    /// Makes sure that encoded bytes are pending, if there is anything to send.
    fn refill(&mut self) -> bool {
        if matches!(&self.wire, Wire::Uart { pending, .. } if !pending.is_empty()) {
            return true;
        }
        let credit = self.credits.iter_mut().enumerate().find(|(_, count)| **count > 0);
        let credit = credit.map(|(index, count)| (channel(index), core::mem::take(count)));
        let byte = if credit.is_some() { None } else { self.next_byte() };
        self.sent = credit.map_or(byte.map(|(channel, _)| channel), |(channel, _)| channel).or(self.sent);
        let Wire::Uart { format, pending, .. } = &mut self.wire else { return false };
        let mut send = |byte| _ = pending.push_back(byte);
        match (format, credit, byte) {
            (Format::Mux(encoder, _), Some((Some(channel), count)), _) => {
                encoder.credit(channel, count, send)
            }
            (Format::Mux(encoder, _), _, Some((channel, byte))) => encoder.bytes(channel, &[byte], send),
            (Format::Plain(_), _, Some((channel, byte))) => {
                if byte == b'\n' && channel == Channel::LOG {
                    send(b'\r');
                }
                send(byte);
            }
            (_, None, None) => return false,
            _ => return self.refill(),
        }
        true
    }

    /// Lockstep: sends everything that waits, then takes the reply's input.
    fn exchange(&mut self) -> bool {
        let mut chunk: heapless::Vec<u8, 256> = heapless::Vec::new();
        let mut encoder = core::mem::take(match &mut self.wire {
            Wire::Lockstep(lockstep) => &mut lockstep.encoder,
            Wire::Uart { .. } => return false,
        });
        for (index, credit) in self.credits.iter_mut().enumerate() {
            let count = core::mem::take(credit);
            if let Some(channel) = channel(index) {
                encoder.credit(channel, count, |byte| _ = chunk.push(byte));
            }
        }
        while chunk.len() < chunk.capacity() - 8
            && let Some((channel, byte)) = self.next_byte()
        {
            encoder.bytes(channel, &[byte], |byte| _ = chunk.push(byte));
        }
        let Wire::Lockstep(lockstep) = &mut self.wire else { return false };
        lockstep.encoder = encoder;
        if chunk.is_empty() {
            return false;
        }
        let inputs = &mut self.inputs;
        lockstep.exchange(&mut chunk, |event| accept(inputs, event));
        true
    }

    /// Takes bytes from the wire; returns the channel of the last one.
    fn receive(&mut self) -> Option<Channel> {
        let Wire::Uart { uart, format, .. } = &mut self.wire else { return None };
        let mut last = None;
        for _ in 0..BURST {
            let Some(byte) = uart.try_read() else { break };
            let event = match format {
                Format::Mux(_, decoder) => decoder.push(byte),
                Format::Plain(plain) => plain.push(byte, self.inputs.len() - 1),
            };
            let Some(event @ Event::Byte { channel, byte }) = event else { continue };
            if let (Format::Plain(_), Channel::LOG) = (&*format, channel) {
                // Guests echo what is typed to them.
                self.outputs[0].ring.push_back(if byte == b'\r' { b'\n' } else { byte });
            }
            accept(&mut self.inputs, event);
            last = Some(channel);
        }
        last
    }
}

/// The channel with this [`Channel::index`].
fn channel(index: usize) -> Option<Channel> {
    match index {
        0 => Some(Channel::LOG),
        vm => Channel::vm(vm as u8 - 1),
    }
}

/// Puts an input byte into its channel's ring. The runner keeps to the window, so the ring has room; what a person types beyond it is dropped.
fn accept(inputs: &mut [VecDeque<u8>], event: Event) {
    let Event::Byte { channel, byte } = event else { return };
    let ring = inputs.get_mut(channel.index());
    if let Some(ring) = ring.filter(|ring| ring.len() < RX_WINDOW) {
        ring.push_back(byte);
        INPUT.store(true, Ordering::Relaxed);
    }
}

struct LogWriter<'a>(&'a mut Console);

impl Write for LogWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let log = &mut self.0.outputs[0];
        let room = log.size - log.ring.len();
        log.ring.extend(&text.as_bytes()[..text.len().min(room)]);
        self.0.lost += text.len().saturating_sub(room);
        Ok(())
    }
}
