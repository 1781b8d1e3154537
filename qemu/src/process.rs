//! QEMU as a child process that never outlives its runner.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use rustix::thread::sched_setaffinity;

use crate::host_cpu::HostCpu;

/// What happens around a run.
#[derive(Debug)]
pub(crate) enum Event {
    /// QEMU wrote these bytes to its standard output.
    Output(Vec<u8>),
    /// QEMU closed its standard output: it has ended.
    Ended,
    /// The person at the terminal typed these bytes.
    Typed(Vec<u8>),
    /// The runner is told by this signal to end.
    Signal(i32),
}

/// How many events may wait to be handled: a flood from the guest is held up, not stored.
pub(crate) const EVENT_QUEUE: usize = 64;

/// A running QEMU. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    /// The CPU that it runs on, if it may use only one.
    _cpu: Option<HostCpu>,
}

impl Process {
    /// Starts `command`, on `cpu` alone if that is given; its standard output goes to `events`.
    pub fn start(mut command: Command, cpu: Option<HostCpu>, events: SyncSender<Event>) -> Result<Self> {
        let parent = rustix::process::getpid();
        let cpus = cpu.as_ref().map(HostCpu::set);
        let prepare = move || {
            if let Some(cpus) = &cpus {
                sched_setaffinity(None, cpus)?;
            }
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // If the parent died before the line above, its death is never signalled.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec only async-signal-safe functions may run. The closure makes three system calls
        // (sched_setaffinity, prctl and getppid) and neither allocates nor takes a lock.
        unsafe { command.pre_exec(prepare) };
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        if let Some(stdout) = stdout {
            thread::spawn(move || forward(stdout, &events));
        }
        let stderr = stderr.map(|mut stderr| {
            thread::spawn(move || {
                let mut text = Vec::new();
                // What arrived before an error is what there is to show.
                let _ = stderr.read_to_end(&mut text);
                text
            })
        });
        Ok(Self { child, stdin, stderr, _cpu: cpu })
    }

    /// Writes to QEMU's standard input. That QEMU has ended shows on its output, so it is no error here.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(bytes);
        }
    }

    /// Waits until QEMU, which has closed its output, is gone.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.stdin = None;
        self.child.wait().context("cannot wait for QEMU")
    }

    /// Kills QEMU if it still runs; returns what it wrote to its standard error.
    pub fn end(&mut self) -> String {
        self.kill();
        let text = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Kills QEMU with its wrapper, if it has one that stays: they are a process group of their own.
    fn kill(&mut self) {
        self.stdin = None;
        if let Ok(None) = self.child.try_wait() {
            // It may end by itself at any moment, but its id stays its own until it is waited for.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Passes on what `stream` yields until it ends or nobody listens any more.
fn forward(mut stream: impl Read, events: &SyncSender<Event>) {
    let mut buffer = [0; 4096];
    loop {
        let event = match stream.read(&mut buffer) {
            Ok(0) => Event::Ended,
            Ok(len) => Event::Output(buffer[..len].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => Event::Ended,
        };
        let last = matches!(event, Event::Ended);
        if events.send(event).is_err() || last {
            return;
        }
    }
}
