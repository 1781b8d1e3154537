//! How a run went.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every step of the script was done.
    Done,
    /// The person at the terminal asked for it.
    Quit,
    /// QEMU ended by itself. EL2 chooses the status: it tells it on the console, or by semihosting.
    Exited(ExitStatus),
    /// EL2 panicked: the line that says so.
    Panicked(String),
    /// The time was up.
    TimedOut(Duration),
    /// The runner was told by this signal to end.
    Signal(i32),
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it ended.
    pub ending: Ending,
    /// Each console's name and text, the hypervisor's first.
    pub consoles: Vec<(String, String)>,
    /// What the script still waited for.
    pub waiting_for: Option<String>,
    /// What QEMU itself had to say.
    pub stderr: String,
    /// How long it took on the host's clock.
    pub elapsed: Duration,
}

impl Outcome {
    /// The text of the console `vm`, empty if there is none of this name.
    pub fn console(&self, vm: &str) -> &str {
        self.consoles.iter().find(|(name, _)| name == vm).map_or("", |(_, text)| text)
    }

    /// The outcome itself if the run did what it was to do: the whole script, or without a script, ended with status 0.
    ///
    /// # Errors
    /// A [`Failure`] that says why it did not.
    pub fn success(self) -> Result<Self, Failure> {
        let good = match &self.ending {
            Ending::Done | Ending::Quit => true,
            Ending::Exited(status) => status.success() && self.waiting_for.is_none(),
            Ending::Panicked(_) | Ending::TimedOut(_) | Ending::Signal(_) => false,
        };
        if good { Ok(self) } else { Err(Failure(Box::new(self))) }
    }
}

/// A run that failed. Shows the last lines of each console and QEMU's own messages, and the reason last.
#[derive(Debug)]
pub struct Failure(Box<Outcome>);

/// How many lines of a console a [`Failure`] shows.
const TAIL: usize = 10;

impl Failure {
    /// The run.
    pub fn outcome(&self) -> &Outcome {
        &self.0
    }

    /// The last lines of each console, and QEMU's own messages.
    pub fn details(&self) -> String {
        let mut text = String::new();
        for (name, console) in self.0.consoles.iter().filter(|(_, console)| !console.is_empty()) {
            text += &format!("--- the last lines of {name}:\n");
            let lines: Vec<&str> = console.lines().collect();
            for line in &lines[lines.len().saturating_sub(TAIL)..] {
                text += &format!("{name} | {line}\n");
            }
        }
        if !self.0.stderr.trim().is_empty() {
            text += &format!("--- QEMU:\n{}\n", self.0.stderr.trim_end());
        }
        text
    }

    /// Why it failed, in one line.
    pub fn reason(&self) -> String {
        let reason = match &self.0.ending {
            Ending::Done => "the script is done".into(),
            Ending::Quit => "quit".into(),
            Ending::Exited(status) => format!("QEMU ended with {status}"),
            Ending::Panicked(line) => format!("EL2 panicked: {line}"),
            Ending::TimedOut(limit) => format!("timed out after {} s", limit.as_secs_f64()),
            Ending::Signal(signal) => format!("ended by signal {signal}"),
        };
        match &self.0.waiting_for {
            Some(step) => format!("{reason}, still waiting for {step}"),
            None => reason,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.details(), self.reason())
    }
}

impl std::error::Error for Failure {}
