//! The person's terminal: one console at a time, and the Ctrl-A chords.

use std::collections::VecDeque;
use std::io::{IsTerminal, Read, Stdout, Write, stdin, stdout};
use std::panic;
use std::sync::Once;
use std::sync::mpsc::SyncSender;
use std::thread;

use abi::mux::Channel;
use anyhow::{Context, Result, ensure};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::console::HYPERVISOR;
use crate::process::Event;
use crate::session::Observer;

/// Ctrl-A, the key that begins a chord.
const CHORD: u8 = 0x01;
/// How much of a console that is not shown is kept for when it is.
const BACKLOG: usize = 64 * 1024;

/// The real terminal, in raw mode until this is dropped.
pub(crate) struct Terminal {
    pub screen: Screen<Stdout>,
    _raw: RawMode,
}

impl Terminal {
    /// Takes the terminal over; what is typed, and signals to end, go to `events`. `names` are those of all channels.
    pub fn attach(names: Vec<String>, events: SyncSender<Event>) -> Result<Self> {
        ensure!(stdin().is_terminal() && stdout().is_terminal(), "an interactive run needs a terminal");
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot handle signals")?;
        let raw = RawMode::enter()?;
        let keys = events.clone();
        thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(len @ 1..) = stdin().read(&mut buffer) {
                if keys.send(Event::Typed(buffer[..len].to_vec())).is_err() {
                    return;
                }
            }
        });
        thread::spawn(move || signals.forever().try_for_each(|signal| events.send(Event::Signal(signal))));
        let mut screen = Screen::new(names, stdout());
        screen.note("Ctrl-A ? shows the keys, Ctrl-A x quits");
        Ok(Self { screen, _raw: raw })
    }
}

/// The terminal's raw mode, left on drop and on a panic (which may abort without dropping anything).
struct RawMode;

impl RawMode {
    fn enter() -> Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                leave_raw_mode();
                report(info);
            }));
        });
        enable_raw_mode().context("cannot set the terminal to raw mode")?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        leave_raw_mode();
    }
}

fn leave_raw_mode() {
    // A guest may have left colours on or the cursor hidden. If the terminal is gone there is nobody to tell.
    let _ = stdout().write_all(b"\x1b[0m\x1b[?25h\r\n");
    let _ = disable_raw_mode();
}

/// What a key means to the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The key is for the console of this channel.
    Type(usize),
    /// End the run.
    Quit,
}

/// What the person sees and which keys were begun.
pub(crate) struct Screen<W> {
    names: Vec<String>,
    /// The channel that is shown.
    shown: usize,
    /// The person has not chosen yet: the first VM to print is shown.
    undecided: bool,
    /// Output of the channels that are not shown.
    backlog: Vec<VecDeque<u8>>,
    chord: bool,
    out: W,
}

impl<W: Write> Screen<W> {
    /// Shows the hypervisor's log at first.
    pub fn new(names: Vec<String>, out: W) -> Self {
        let backlog = names.iter().map(|_| VecDeque::new()).collect();
        Self { names, shown: 0, undecided: true, backlog, chord: false, out }
    }

    /// A key was pressed.
    pub fn key(&mut self, byte: u8) -> Option<Action> {
        if !self.chord {
            self.chord = byte == CHORD;
            if self.chord {
                return None;
            }
            self.echo(byte);
            return Some(Action::Type(self.shown));
        }
        self.chord = false;
        match byte {
            CHORD => return Some(Action::Type(self.shown)),
            b'x' => return Some(Action::Quit),
            b'n' => self.show((self.shown + 1) % self.names.len()),
            b'0'..=b'9' => self.show(usize::from(byte - b'0')),
            _ => self.help(),
        }
        None
    }

    /// Guests echo what is typed; the hypervisor's console takes whole lines.
    fn echo(&mut self, byte: u8) {
        if self.shown == 0 {
            match byte {
                b'\r' | b'\n' => self.write(b"\r\n"),
                b'\x08' | b'\x7f' => self.write(b"\x08 \x08"),
                _ => self.write(&[byte]),
            }
            self.flush();
        }
    }

    fn help(&mut self) {
        let names: Vec<_> = self.names.iter().enumerate().map(|(n, name)| format!("{n} {name}")).collect();
        self.note(&format!("Ctrl-A and then: {}", names.join(", ")));
        self.note("  n the next console, x quit, Ctrl-A a Ctrl-A for the console, ? this help");
    }

    fn show(&mut self, channel: usize) {
        self.undecided = false;
        let Some(name) = self.names.get(channel).cloned() else {
            return self.help();
        };
        self.shown = channel;
        self.note(&name);
        for byte in std::mem::take(&mut self.backlog[channel]) {
            self.print(byte);
        }
        self.flush();
    }

    /// A line of our own.
    fn note(&mut self, text: &str) {
        self.write(format!("\r\n[{text}]\r\n").as_bytes());
        self.flush();
    }

    fn output(&mut self, channel: usize, byte: u8) {
        if self.undecided && channel != 0 {
            self.show(channel);
        }
        if channel == self.shown {
            self.print(byte);
        } else if let Some(backlog) = self.backlog.get_mut(channel) {
            if backlog.len() == BACKLOG {
                backlog.pop_front();
            }
            backlog.push_back(byte);
        }
    }

    fn print(&mut self, byte: u8) {
        // In raw mode a line feed does not return to the first column.
        if byte == b'\n' {
            self.write(b"\r");
        }
        self.write(&[byte]);
    }

    /// A terminal that went away also sends SIGHUP, which ends the run.
    fn write(&mut self, bytes: &[u8]) {
        let _ = self.out.write_all(bytes);
    }

    /// Lets the person see what was written.
    pub fn flush(&mut self) {
        let _ = self.out.flush();
    }
}

impl<W: Write> Observer for Screen<W> {
    /// Shows the hypervisor's log line by line, with its backtraces explained.
    fn line(&mut self, vm: &str, line: &str) {
        if vm == HYPERVISOR {
            if line.starts_with("PANIC") {
                self.show(0);
            }
            line.bytes().chain([b'\n']).for_each(|byte| self.output(0, byte));
        }
    }

    /// Shows the VMs' consoles as they are, terminal control included.
    fn byte(&mut self, channel: Channel, byte: u8) {
        if channel != Channel::LOG {
            self.output(channel.index(), byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen<Vec<u8>> {
        Screen::new(["mobivmm", "linux", "control"].map(String::from).into(), Vec::new())
    }

    fn print(screen: &mut Screen<Vec<u8>>, vm: u8, text: &str) {
        text.bytes().for_each(|byte| screen.byte(Channel::vm(vm).unwrap(), byte));
    }

    fn seen(screen: &mut Screen<Vec<u8>>) -> String {
        String::from_utf8(std::mem::take(&mut screen.out)).unwrap()
    }

    #[test]
    fn the_first_vm_that_prints_is_shown_and_others_are_kept_back() {
        let mut s = screen();
        s.line(HYPERVISOR, "hello");
        print(&mut s, 1, "a\n");
        print(&mut s, 0, "b\n");
        s.line(HYPERVISOR, "log");
        assert_eq!(seen(&mut s), "hello\r\n\r\n[control]\r\na\r\n");
        assert_eq!(s.key(CHORD), None);
        assert_eq!(s.key(b'1'), None);
        assert_eq!(seen(&mut s), "\r\n[linux]\r\nb\r\n");
        assert_eq!((s.key(CHORD), s.key(b'n')), (None, None));
        assert_eq!(seen(&mut s), "\r\n[control]\r\n");
        assert_eq!((s.key(CHORD), s.key(b'n')), (None, None));
        assert_eq!(seen(&mut s), "\r\n[mobivmm]\r\nlog\r\n");
    }

    #[test]
    fn keys_go_to_the_console_shown_but_for_chords() {
        let mut s = screen();
        assert_eq!(s.key(b'x'), Some(Action::Type(0)));
        assert_eq!((s.key(CHORD), s.key(b'2')), (None, None));
        assert_eq!(s.key(b'n'), Some(Action::Type(2)));
        assert_eq!((s.key(CHORD), s.key(CHORD)), (None, Some(Action::Type(2))));
        assert_eq!((s.key(CHORD), s.key(b'9')), (None, None));
        assert_eq!(s.key(b'y'), Some(Action::Type(2)), "there is no console 9");
        assert_eq!((s.key(CHORD), s.key(b'x')), (None, Some(Action::Quit)));
        seen(&mut s);
        assert_eq!((s.key(CHORD), s.key(b'?')), (None, None));
        assert!(seen(&mut s).contains("0 mobivmm, 1 linux, 2 control"));
    }

    #[test]
    fn only_the_hypervisors_console_is_echoed_here() {
        let mut s = screen();
        "wo\x7f\r".bytes().for_each(|byte| _ = s.key(byte));
        assert_eq!(seen(&mut s), "wo\x08 \x08\r\n");
        s.show(1);
        seen(&mut s);
        assert_eq!(s.key(b'x'), Some(Action::Type(1)));
        assert_eq!(seen(&mut s), "");
    }

    #[test]
    fn a_panic_is_shown_at_once() {
        let mut s = screen();
        print(&mut s, 0, "busy");
        seen(&mut s);
        s.line(HYPERVISOR, "PANIC at x");
        assert_eq!(seen(&mut s), "\r\n[mobivmm]\r\nPANIC at x\r\n");
    }

    #[test]
    fn the_backlog_is_bounded() {
        let mut s = screen();
        s.show(0);
        print(&mut s, 0, &"x".repeat(BACKLOG + 5));
        assert_eq!(s.backlog[1].len(), BACKLOG);
    }
}
