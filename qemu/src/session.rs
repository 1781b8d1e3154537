//! The protocol side of a run, without any I/O: wire bytes in, lines and wire bytes out.

use std::time::Duration;

use abi::mux::{Channel, DLE, Decoder, Encoder, Event, MAX_VMS};
use anyhow::{Result, ensure};

use crate::console::{Console, HYPERVISOR};
use crate::script::{Script, Step};
use crate::symbols::Symbols;

/// Is told what the consoles print, in the order in which it arrives.
pub trait Observer {
    /// A line of the console `vm` is complete, or is the last one and never will be. Terminal control is left out.
    fn line(&mut self, vm: &str, line: &str);

    /// A console printed this byte.
    fn byte(&mut self, channel: Channel, byte: u8) {
        let _ = (channel, byte);
    }

    /// How often it wants to [`Self::look`], while the machine runs.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// Looks at the machine: in lockstep whenever that stands still for its runner, and only then; else as often as asked for. Returns
    /// whether it has seen enough, which ends the run.
    fn look(&mut self) -> bool {
        false
    }
}

/// Does not look.
impl Observer for () {
    fn line(&mut self, _vm: &str, _line: &str) {}
}

/// The state of all consoles and of the script.
pub(crate) struct Session {
    decoder: Decoder,
    encoder: Encoder,
    consoles: Vec<Console>,
    script: Script,
    symbols: Option<Symbols>,
    /// EL2 has begun to frame its output, so it can take input.
    framed: bool,
    panic: Option<String>,
    /// EL2 has said that it turns the machine off after a failure.
    failed: bool,
}

impl Session {
    /// `vms` are the VMs' names in the order of the machine file.
    pub fn new(vms: &[String], script: Vec<Step>, symbols: Option<Symbols>) -> Result<Self> {
        ensure!(vms.len() <= usize::from(MAX_VMS), "{} VMs: only {MAX_VMS} can have a console", vms.len());
        let names = [HYPERVISOR].into_iter().chain(vms.iter().map(String::as_str));
        let consoles: Vec<Console> = names.map(Console::new).collect();
        Ok(Self {
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            script: Script::new(script, &consoles)?,
            consoles,
            symbols,
            framed: false,
            panic: None,
            failed: false,
        })
    }

    /// Takes one byte of the wire; returns whether it completes a sync, so that EL2 waits for a reply.
    pub fn feed(&mut self, byte: u8, observer: &mut dyn Observer) -> bool {
        self.framed |= byte == DLE;
        match self.decoder.push(byte) {
            Some(Event::Byte { channel, byte }) => self.print(channel, byte, observer),
            Some(Event::Credit { channel, count }) => {
                if let Some(console) = self.consoles.get_mut(channel.index()) {
                    console.input.credit(count.into());
                }
            }
            Some(Event::Sync) => return true,
            Some(Event::End { success }) => self.failed = !success,
            None => {}
        }
        false
    }

    fn print(&mut self, channel: Channel, byte: u8, observer: &mut dyn Observer) {
        let Some(console) = self.consoles.get_mut(channel.index()) else {
            return;
        };
        observer.byte(channel, byte);
        let Some(mut line) = console.push(byte) else {
            return;
        };
        if channel == Channel::LOG {
            if self.panic.is_none() && line.starts_with("PANIC") {
                self.panic = Some(line.clone());
            }
            if self.panic.is_some()
                && let Some(explained) = self.symbols.as_ref().and_then(|symbols| symbols.explain(&line))
            {
                let addition = format!(" {explained}");
                console.amend(&addition);
                line.push_str(&addition);
            }
        }
        observer.line(console.name(), &line);
    }

    /// Goes as far in the script as the consoles' text allows; returns whether it is done, which an empty one never is.
    pub fn advance(&mut self) -> bool {
        self.script.advance(&mut self.consoles);
        !self.script.is_empty() && self.script.waiting_for().is_none()
    }

    /// Types into a console.
    pub fn send(&mut self, channel: usize, bytes: &[u8]) {
        if let Some(console) = self.consoles.get_mut(channel) {
            console.input.push(bytes);
        }
    }

    /// The input that EL2 has room for now, as wire bytes.
    pub fn take_input(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        if self.framed {
            for (index, console) in self.consoles.iter_mut().enumerate() {
                let channel = index.checked_sub(1).map_or(Some(Channel::LOG), |vm| Channel::vm(vm as u8));
                if let Some(channel) = channel {
                    self.encoder.bytes(channel, &console.input.take(), |byte| wire.push(byte));
                }
            }
        }
        wire
    }

    /// The reply to a sync.
    pub fn lockstep_reply(&mut self) -> Vec<u8> {
        let input = self.take_input();
        let len = u16::try_from(input.len())
            .expect("63 windows of 256 bytes, each byte escaped, are less than 64 KiB");
        [&len.to_le_bytes(), input.as_slice()].concat()
    }

    /// The line by which EL2 announced that it panicked.
    pub fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// Whether EL2 has said that it turns the machine off after a failure.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Ends the session: passes on the lines that have no end; returns each console's name and text, and what the script
    /// still waits for.
    pub fn finish(self, observer: &mut dyn Observer) -> (Vec<(String, String)>, Option<String>) {
        for console in &self.consoles {
            let line = console.partial_line();
            if !line.is_empty() {
                observer.line(console.name(), &line);
            }
        }
        let consoles =
            self.consoles.iter().map(|console| (console.name().to_string(), console.text())).collect();
        (consoles, self.script.waiting_for().map(ToString::to_string))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object, ObjectSymbol};
    use std::path::Path;

    #[test]
    fn the_frames_of_a_panic_are_explained_in_their_lines() {
        // The test program stands in for EL2's: a frame somewhere in a function that is surely there.
        let program = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&program).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let feed = |symbol: &object::Symbol| symbol.name().is_ok_and(|name| name.contains("Session4feed"));
        let frame = format!("  #0 {:#x}", file.symbols().find(feed).unwrap().address() + 8);

        let symbols = Symbols::load(&program, Path::new("/")).unwrap();
        let mut session = Session::new(&[], Vec::new(), Some(symbols)).unwrap();
        for byte in format!("{frame}\nPANIC: {frame}\n{frame}\nend\n").bytes() {
            session.feed(byte, &mut ());
        }
        assert_eq!(session.panic().unwrap(), format!("PANIC: {frame}"));
        let (consoles, _) = session.finish(&mut ());
        let lines: Vec<&str> = consoles[0].1.lines().collect();
        assert_eq!(lines[0], frame, "before the panic it is an ordinary line");
        let explained = lines[2].strip_prefix(&frame).unwrap();
        assert!(
            explained.contains("Session>::feed (") || explained.contains("Session::feed ("),
            "{explained}"
        );
        assert_eq!(lines[3], "end");
    }
}
