//! A run of one machine: starts QEMU, and carries bytes between it, the [`Session`] and the terminal.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use abi::mux::Channel;
use anyhow::{Context, Result};

use crate::config::{Config, Transport, shell_line};
use crate::console::HYPERVISOR;
use crate::host_cpu::HostCpu;
use crate::outcome::{Ending, Outcome};
use crate::process::{EVENT_QUEUE, Event, Process};
use crate::script::Step;
use crate::session::{Observer, Session};
use crate::symbols::Symbols;
use crate::terminal::{Action, Terminal};

/// How long EL2 may take, on the host's clock, from the first line of its panic until it ends QEMU.
const PANIC_GRACE: Duration = Duration::from_secs(3);

/// A run of one machine: `Run::new(config, vms).script(…).execute()`.
pub struct Run<'o> {
    config: Config,
    vms: Vec<String>,
    script: Vec<Step>,
    interactive: bool,
    plain: bool,
    uart: bool,
    timeout: Option<Duration>,
    symbols: Option<Symbols>,
    observer: Box<dyn Observer + 'o>,
}

impl<'o> Run<'o> {
    /// A run of `config` without a script: until QEMU ends. `vms` are the VMs' names in the order of the machine file.
    pub fn new<S: Into<String>>(config: Config, vms: impl IntoIterator<Item = S>) -> Self {
        Self {
            config,
            vms: vms.into_iter().map(Into::into).collect(),
            script: Vec::new(),
            interactive: false,
            plain: false,
            uart: false,
            timeout: None,
            symbols: None,
            observer: Box::new(()),
        }
    }

    /// What to wait for and to type. The run ends with the last step.
    pub fn script(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.script = steps.into_iter().collect();
        self
    }

    /// Hands the consoles to the person at the terminal, one at a time; Ctrl-A changes between them.
    pub fn interactive(mut self) -> Self {
        self.interactive = true;
        self
    }

    /// The program at EL2 is not MobiVMM: its console is what it writes to the UART, and is called as MobiVMM's own is.
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// The consoles go over the UART, as without a deterministic clock: what is typed interrupts, at times that are the host's affair.
    pub fn uart(mut self) -> Self {
        self.uart = true;
        self
    }

    /// The longest that the run may take on the host's clock.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Explains the addresses in EL2's backtraces.
    pub fn symbols(mut self, symbols: Symbols) -> Self {
        self.symbols = Some(symbols);
        self
    }

    /// Is told what the consoles print while the run goes on.
    pub fn observer(mut self, observer: impl Observer + 'o) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// QEMU's command line, quoted for a shell.
    pub fn command_line(&self) -> String {
        shell_line(&self.command())
    }

    /// QEMU's command, for who carries its bytes himself.
    pub fn command(&self) -> Command {
        self.config.command(self.transport())
    }

    /// Lockstep answers at once, which a person does not.
    fn transport(&self) -> Transport {
        match self.config.icount && !self.interactive && !self.uart {
            _ if self.plain => Transport::Plain,
            true => Transport::Lockstep,
            false => Transport::Mux,
        }
    }

    /// Starts QEMU and goes through the script. QEMU is gone when this returns.
    ///
    /// # Errors
    /// If the script names a VM that there is not, QEMU cannot be started, or an interactive run has no terminal.
    /// Whatever happens once it runs is an [`Outcome`].
    pub fn execute(mut self) -> Result<Outcome> {
        let transport = self.transport();
        let mut session = Session::new(&self.vms, self.script, self.symbols)?;
        let (sender, events) = sync_channel(EVENT_QUEUE);
        let start = Instant::now();
        let cpu = self
            .config
            .icount
            .then(HostCpu::take)
            .transpose()
            .context("which CPUs may be used is not known")?;
        let mut process = Process::start(self.config.command(transport), cpu, sender.clone())?;
        let terminal = if self.interactive { Some(attach(self.vms, sender)?) } else { None };
        let mut audience = Audience { terminal, observer: &mut *self.observer };
        let mut limit = self.timeout;

        // In lockstep it looks when the machine stands still.
        let interval = audience.interval().filter(|_| transport != Transport::Lockstep);
        let mut next_look = interval;

        let ending = loop {
            if let (Some(interval), Some(next)) = (interval, next_look)
                && next <= start.elapsed()
            {
                if audience.look() {
                    break Ending::Done;
                }
                next_look = Some(start.elapsed() + interval);
            }
            let left = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(start.elapsed()));
            let wait = next_look.map_or(left, |next| left.min(next.saturating_sub(start.elapsed())));
            let event =
                if left.is_zero() { Err(RecvTimeoutError::Timeout) } else { events.recv_timeout(wait) };
            match event {
                Ok(Event::Output(bytes)) => {
                    let panicked = session.panic().is_some();
                    let done = exchange(&bytes, transport, &mut session, &mut process, &mut audience);
                    audience.flush();
                    if done {
                        break Ending::Done;
                    }
                    if session.panic().is_some() && !panicked {
                        limit = Some(start.elapsed() + PANIC_GRACE);
                    }
                }
                Ok(Event::Typed(bytes)) => {
                    if audience.typed(&bytes, &mut session) {
                        break Ending::Quit;
                    }
                    process.write(&session.take_input());
                }
                Ok(Event::Signal(signal)) => break Ending::Signal(signal),
                Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => {
                    let mut status = process.wait()?;
                    if session.failed() && status.success() {
                        // As by `exit(1)`: turning a machine off is no failure to QEMU.
                        status = ExitStatus::from_raw(1 << 8);
                    }
                    break if session.advance() { Ending::Done } else { Ending::Exited(status) };
                }
                Err(RecvTimeoutError::Timeout) if wait < left => {}
                Err(RecvTimeoutError::Timeout) => break Ending::TimedOut(self.timeout.unwrap_or_default()),
            }
        };

        let stderr = process.end();
        let panic = session.panic().map(|line| Ending::Panicked(line.to_string()));
        let (consoles, waiting_for) = session.finish(&mut audience);
        Ok(Outcome {
            ending: panic.unwrap_or(ending),
            consoles,
            waiting_for,
            stderr,
            elapsed: start.elapsed(),
        })
    }
}

/// Takes what QEMU wrote and answers it; returns whether the script is done. In lockstep EL2 waits at each sync, and is
/// left waiting there when the script is done, so that its output ends at a point that is always the same.
fn exchange(
    bytes: &[u8],
    transport: Transport,
    session: &mut Session,
    process: &mut Process,
    observer: &mut dyn Observer,
) -> bool {
    for &byte in bytes {
        if session.feed(byte, observer) && transport == Transport::Lockstep {
            // The end of the script and what was seen of the machine are at the same point.
            let seen = observer.look();
            if session.advance() || seen {
                return true;
            }
            process.write(&session.lockstep_reply());
        }
    }
    if transport != Transport::Lockstep {
        if session.advance() {
            return true;
        }
        process.write(&session.take_input());
    }
    false
}

fn attach(vms: Vec<String>, events: SyncSender<Event>) -> Result<Terminal> {
    Terminal::attach([HYPERVISOR.to_string()].into_iter().chain(vms).collect(), events)
}

/// Everybody who looks at the consoles.
struct Audience<'a> {
    terminal: Option<Terminal>,
    observer: &'a mut dyn Observer,
}

impl Audience<'_> {
    fn flush(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.screen.flush();
        }
    }

    /// Handles what the person typed; returns whether that was the wish to quit.
    fn typed(&mut self, bytes: &[u8], session: &mut Session) -> bool {
        let Some(terminal) = &mut self.terminal else {
            return false;
        };
        for &byte in bytes {
            match terminal.screen.key(byte) {
                Some(Action::Type(console)) => session.send(console, &[byte]),
                Some(Action::Quit) => return true,
                None => {}
            }
        }
        false
    }
}

impl Observer for Audience<'_> {
    fn line(&mut self, vm: &str, line: &str) {
        if let Some(terminal) = &mut self.terminal {
            terminal.screen.line(vm, line);
        }
        self.observer.line(vm, line);
    }

    fn byte(&mut self, channel: Channel, byte: u8) {
        if let Some(terminal) = &mut self.terminal {
            terminal.screen.byte(channel, byte);
        }
        self.observer.byte(channel, byte);
    }

    fn interval(&self) -> Option<Duration> {
        self.observer.interval()
    }

    fn look(&mut self) -> bool {
        self.observer.look()
    }
}

#[cfg(test)]
mod tests;
