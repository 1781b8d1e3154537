//! Console multiplexing: all consoles of the machine, in both directions, over one byte stream between EL2 and the
//! runner on the host.
//!
//! | bytes            | direction | meaning                                                                  |
//! |------------------|-----------|--------------------------------------------------------------------------|
//! | any but `DLE`    | both      | one byte of the current channel                                          |
//! | `DLE DLE`        | both      | the byte 0x10 of the current channel                                     |
//! | `DLE 0x40+c`     | both      | channel c is the current one from here on                                |
//! | `DLE 0x80+c`, n  | to host   | n bytes of channel c's input were taken (1 to 255, not 16: 16 is 15 + 1)   |
//! | `DLE 0xC0`       | to host   | sync: EL2 now waits for the runner's reply (lockstep, below)             |
//! | `DLE 0xC1`       | to host   | the machine turns itself off, and all is well                            |
//! | `DLE 0xC2`       | to host   | the same after a failure                                                 |
//!
//! Channel 0 is the hypervisor's own console, its log and the operator's commands, channel 1 + n the console of VM n. Each direction starts on channel 0, so
//! plain text that EL2 prints before it starts framing is its log. A receiver drops an escape that it does not know,
//! and is in step again at the next select: outside `DLE DLE` the byte `DLE` never stands for data.
//!
//! **Flow control.** A sender of input keeps at most [`RX_WINDOW`] bytes a channel unacknowledged, and EL2 has a ring
//! of that size for each: no byte is lost, and a VM that does not read never holds up another one's input. It sends
//! nothing before it has seen EL2's first `DLE`: until then EL2 may not listen yet.
//!
//! **Lockstep** (byte-identical runs with input; `console=lockstep` on EL2's command line, else `console=mux` for the
//! UART). EL2 opens [`LOCKSTEP_OUT`] and [`LOCKSTEP_IN`] by semihosting (Arm "Semihosting for AArch32 and AArch64",
//! SYS_OPEN), which are pipes to the runner. It writes (SYS_WRITE) a chunk that ends with a sync, then reads (SYS_READ)
//! a reply before anything else happens on the machine: a `u16`, little-endian, and that many bytes of this protocol (0:
//! no input). The reply depends on the bytes written so far and on nothing else. Either call may move fewer bytes
//! than asked for, and both stop virtual time.

/// The escape byte (ASCII "data link escape").
pub const DLE: u8 = 0x10;
/// The most input bytes of one channel that EL2 has not acknowledged.
pub const RX_WINDOW: usize = 256;
/// The most VMs that have a console of their own.
pub const MAX_VMS: u8 = 62;

/// The file that EL2 writes to in lockstep mode, with the NUL that SYS_OPEN wants: the emulator's standard output.
pub const LOCKSTEP_OUT: &core::ffi::CStr = c"/dev/stdout";
/// The file that EL2 reads from in lockstep mode: the emulator's standard input.
pub const LOCKSTEP_IN: &core::ffi::CStr = c"/dev/stdin";

const SELECT: u8 = 0x40;
const CREDIT: u8 = 0x80;
const SYNC: u8 = 0xC0;
const END: u8 = 0xC1;
const END_FAILURE: u8 = 0xC2;

/// One of the consoles: the hypervisor's log (the default) or that of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel(u8);

impl Channel {
    /// The hypervisor's own console.
    pub const LOG: Channel = Channel(0);

    /// The console of the VM with this index in the machine file; `None` from [`MAX_VMS`] on.
    pub const fn vm(index: u8) -> Option<Self> {
        if index < MAX_VMS { Some(Self(index + 1)) } else { None }
    }

    /// The VM's index, `None` for the log.
    pub const fn vm_index(self) -> Option<u8> {
        self.0.checked_sub(1)
    }

    /// 0 for the log, 1 + n for VM n: dense, for use as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The channel in the low six bits of an escape code.
    const fn of_code(code: u8) -> Option<Self> {
        let channel = code & 0x3F;
        if channel <= MAX_VMS { Some(Self(channel)) } else { None }
    }
}

/// The sending half: turns bytes of channels into the wire's bytes.
///
/// It announces a channel before its first byte, and then only when it changes.
#[derive(Debug, Default)]
pub struct Encoder {
    current: Option<Channel>,
}

impl Encoder {
    /// Sends `bytes` on `channel`.
    pub fn bytes(&mut self, channel: Channel, bytes: &[u8], mut sink: impl FnMut(u8)) {
        if bytes.is_empty() {
            return;
        }
        if self.current != Some(channel) {
            self.current = Some(channel);
            sink(DLE);
            sink(SELECT | channel.0);
        }
        for &byte in bytes {
            if byte == DLE {
                sink(DLE);
            }
            sink(byte);
        }
    }

    /// Tells the runner that `count` more bytes of the channel's input have left EL2's ring.
    pub fn credit(&mut self, channel: Channel, mut count: usize, mut sink: impl FnMut(u8)) {
        while count > 0 {
            let mut part = u8::try_from(count).unwrap_or(u8::MAX);
            if part == DLE {
                part -= 1;
            }
            count -= usize::from(part);
            sink(DLE);
            sink(CREDIT | channel.0);
            sink(part);
        }
    }

    /// Ends a chunk in lockstep mode.
    pub fn sync(&mut self, mut sink: impl FnMut(u8)) {
        sink(DLE);
        sink(SYNC);
    }

    /// Says that the machine ends.
    pub fn end(&mut self, success: bool, mut sink: impl FnMut(u8)) {
        sink(DLE);
        sink(if success { END } else { END_FAILURE });
    }
}

/// What a [`Decoder`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// One byte of a console.
    Byte {
        /// Whose.
        channel: Channel,
        /// The byte, without any escape.
        byte: u8,
    },
    /// Input bytes left EL2's ring.
    Credit {
        /// Whose ring.
        channel: Channel,
        /// How many, at least 1.
        count: u8,
    },
    /// The end of a lockstep chunk: the sender waits for a reply.
    Sync,
    /// The machine turns itself off.
    End {
        /// It was to.
        success: bool,
    },
}

/// The receiving half: a state machine that takes any byte at any time. It begins on [`Channel::LOG`].
#[derive(Debug, Default)]
pub struct Decoder {
    current: Channel,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Text,
    Escape,
    Credit(Channel),
}

impl Decoder {
    /// Takes the next byte of the wire; returns what it completes, if anything.
    pub fn push(&mut self, byte: u8) -> Option<Event> {
        let state = core::mem::replace(&mut self.state, State::Text);
        match (state, byte) {
            (State::Text | State::Credit(_), DLE) => {
                self.state = State::Escape;
                None
            }
            (State::Text, byte) | (State::Escape, byte @ DLE) => {
                Some(Event::Byte { channel: self.current, byte })
            }
            (State::Escape, SYNC) => Some(Event::Sync),
            (State::Escape, END | END_FAILURE) => Some(Event::End { success: byte == END }),
            (State::Escape, code) => {
                match (code & !0x3F, Channel::of_code(code)) {
                    (SELECT, Some(channel)) => self.current = channel,
                    (CREDIT, Some(channel)) => self.state = State::Credit(channel),
                    _ => {}
                }
                None
            }
            (State::Credit(_), 0) => None,
            (State::Credit(channel), count) => Some(Event::Credit { channel, count }),
        }
    }
}

#[cfg(test)]
mod tests;
