//! A run's script: wait for a console to match, type into one, in order.

use std::fmt;

use anyhow::{Result, anyhow, bail};
use regex::bytes::{Regex, RegexBuilder};

use crate::console::Console;

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Wait until the console matches behind its previous match. `^` and `$` are the ends of a line; `$` needs the
    /// line to be complete.
    Until {
        /// The VM, or [`HYPERVISOR`](crate::HYPERVISOR).
        vm: String,
        /// What to wait for.
        regex: Regex,
    },
    /// Type into the console. As the last step it is done when the guest has read it all.
    Send {
        /// The VM, or [`HYPERVISOR`](crate::HYPERVISOR).
        vm: String,
        /// What to type.
        text: Vec<u8>,
    },
}

impl Step {
    /// Waits for `vm` to print something that `regex` matches.
    ///
    /// # Errors
    /// If `regex` is no regular expression.
    pub fn until(vm: impl Into<String>, regex: &str) -> Result<Self> {
        let regex = RegexBuilder::new(regex).multi_line(true).build()?;
        Ok(Self::Until { vm: vm.into(), regex })
    }

    /// Types `text` into the console of `vm`.
    pub fn send(vm: impl Into<String>, text: impl AsRef<[u8]>) -> Self {
        Self::Send { vm: vm.into(), text: text.as_ref().to_vec() }
    }

    fn vm(&self) -> &str {
        match self {
            Self::Until { vm, .. } | Self::Send { vm, .. } => vm,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until { vm, regex } => write!(f, "{vm} to match /{regex}/"),
            Self::Send { vm, text } => write!(f, "{vm} to read \"{}\"", text.escape_ascii()),
        }
    }
}

/// The bytes that `text` stands for: `\n`, `\r`, `\t`, `\\` and `\xNN` (two hexadecimal digits) are escapes.
///
/// # Errors
/// If a backslash is followed by anything else.
pub fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.extend_from_slice(plain.as_bytes());
        let (byte, len) = match escape.as_bytes() {
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b't', ..] => (b'\t', 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (u8::from_str_radix(&escape[1..3], 16)?, 3)
            }
            _ => bail!(
                "no such escape: \\{} (known: \\n \\r \\t \\\\ \\xNN)",
                escape.get(..1).unwrap_or_default()
            ),
        };
        out.push(byte);
        rest = &escape[len..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// A script under way.
#[derive(Debug)]
pub(crate) struct Script {
    /// The steps, each with the index of its console.
    steps: Vec<(usize, Step)>,
    next: usize,
    /// What the current `Until` has searched already.
    searched: usize,
    /// The current `Send` is on its way.
    sent: bool,
}

impl Script {
    /// Resolves the names in `steps`.
    pub fn new(steps: Vec<Step>, consoles: &[Console]) -> Result<Self> {
        let resolve = |step: Step| {
            let index = consoles.iter().position(|console| console.name() == step.vm()).ok_or_else(|| {
                let names: Vec<_> = consoles.iter().map(Console::name).collect();
                anyhow!("no VM is called {:?}; there are {}", step.vm(), names.join(", "))
            })?;
            Ok((index, step))
        };
        let steps = steps.into_iter().map(resolve).collect::<Result<_>>()?;
        Ok(Self { steps, next: 0, searched: 0, sent: false })
    }

    /// Goes as far as the consoles' text allows.
    pub fn advance(&mut self, consoles: &mut [Console]) {
        while let Some((index, step)) = self.steps.get(self.next) {
            let console = &mut consoles[*index];
            let done = match step {
                Step::Until { regex, .. } => console.find(regex, &mut self.searched),
                Step::Send { text, .. } => {
                    if !self.sent {
                        console.input.push(text);
                        self.sent = true;
                    }
                    self.next + 1 < self.steps.len() || console.input.is_idle()
                }
            };
            if !done {
                return;
            }
            self.next += 1;
            self.searched = 0;
            self.sent = false;
        }
    }

    /// The step that is waited for; `None` when all are done.
    pub fn waiting_for(&self) -> Option<&Step> {
        self.steps.get(self.next).map(|(_, step)| step)
    }

    /// Whether there are no steps at all.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\n\t\r\\\x1b\x00é").unwrap(), "a\n\t\r\\\x1b\0é".as_bytes());
        for wrong in [r"\q", r"\", r"\x1", r"\x1g", r"\é", r"\xé"] {
            assert!(unescape(wrong).unwrap_err().to_string().contains("no such escape"), "{wrong}");
        }
    }

    fn consoles() -> Vec<Console> {
        ["mobivmm", "linux", "control"].map(Console::new).into()
    }

    fn print(console: &mut Console, text: &str) {
        text.bytes().for_each(|byte| drop(console.push(byte)));
    }

    #[test]
    fn an_unknown_vm_is_refused_with_the_known_ones() {
        let error = Script::new(vec![Step::send("linus", "x")], &consoles()).unwrap_err();
        assert_eq!(error.to_string(), "no VM is called \"linus\"; there are mobivmm, linux, control");
        assert!(Script::new(vec![Step::send("linux", "x"), Step::send("mobivmm", "x")], &consoles()).is_ok());
    }

    #[test]
    fn the_steps_act_in_the_order_given() {
        let steps = vec![
            Step::until("linux", "~ #").unwrap(),
            Step::send("linux", "nproc\n"),
            Step::until("linux", "^2$").unwrap(),
            Step::until("control", "misses=").unwrap(),
        ];
        let mut consoles = consoles();
        let mut script = Script::new(steps, &consoles).unwrap();
        print(&mut consoles[2], "misses=0\n");
        script.advance(&mut consoles);
        assert_eq!(script.waiting_for().unwrap().to_string(), "linux to match /~ #/");
        assert_eq!(consoles[1].input.take(), b"");

        print(&mut consoles[1], "2\n~ # ");
        script.advance(&mut consoles);
        assert_eq!(consoles[1].input.take(), b"nproc\n");
        script.advance(&mut consoles);
        assert_eq!(consoles[1].input.take(), b"", "typed once");
        assert_eq!(script.waiting_for().unwrap().to_string(), "linux to match /^2$/");

        print(&mut consoles[1], "nproc\r\n2\r\n");
        script.advance(&mut consoles);
        assert!(script.waiting_for().is_none(), "what a console printed before its turn counts");
    }

    #[test]
    fn a_final_send_is_done_when_the_guest_has_read_it() {
        let mut consoles = consoles();
        let mut script = Script::new(vec![Step::send("linux", "a\x01")], &consoles).unwrap();
        script.advance(&mut consoles);
        assert_eq!(consoles[1].input.take(), b"a\x01");
        script.advance(&mut consoles);
        assert_eq!(script.waiting_for().unwrap().to_string(), "linux to read \"a\\x01\"");
        consoles[1].input.credit(2);
        script.advance(&mut consoles);
        assert!(script.waiting_for().is_none());
    }
}
