//! A person at a terminal: one console at a time. Ctrl-A then a digit shows VM 1 to 9 (0: the hypervisor's log and commands), Ctrl-A n the next one,
//! Ctrl-A Ctrl-A sends a Ctrl-A.

use abi::mux::{Channel, Event};

const CHORD: u8 = 0x01;

pub struct Plain {
    /// The channel that is shown, as an index; the log is shown always.
    focus: usize,
    chord: bool,
}

impl Plain {
    pub const fn new() -> Self {
        Self { focus: 1, chord: false }
    }

    /// Whether the channel's output is printed.
    pub fn shows(&self, channel: usize) -> bool {
        channel == 0 || channel == self.focus
    }

    /// A typed byte: what it means for the VM in focus, if anything. `vms` is how many there are.
    pub fn push(&mut self, byte: u8, vms: usize) -> Option<Event> {
        if core::mem::take(&mut self.chord) {
            match byte {
                b'n' => self.focus = (self.focus + 1) % (vms + 1),
                b'0'..=b'9' if usize::from(byte - b'0') <= vms => self.focus = usize::from(byte - b'0'),
                CHORD => return self.input(byte),
                _ => {}
            }
            return None;
        }
        if byte == CHORD {
            self.chord = true;
            return None;
        }
        self.input(byte)
    }

    fn input(&self, byte: u8) -> Option<Event> {
        let channel = match self.focus {
            0 => Channel::LOG,
            vm => Channel::vm(u8::try_from(vm - 1).ok()?)?,
        };
        Some(Event::Byte { channel, byte })
    }
}
