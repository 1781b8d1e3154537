//! `cargo xtask run` with a person at the terminal, and a person at the board's own UART.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetattr;

use crate::checks::CHECKS_TOML;
use crate::{Lab, Test};

/// How long something may take to be printed.
const PATIENCE: Duration = Duration::from_secs(120);
const CTRL_A: &str = "\x01";

pub fn tests() -> Vec<Test> {
    vec![Test::new("terminal_interactive_run", interactive), Test::new("terminal_plain_console", plain)]
}

/// Consoles are switched and typed into, the hypervisor's log is one of them, and at the end the terminal is as it was.
fn interactive(lab: &Lab<'_>, _: &str) -> Result<()> {
    let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&pty)?;
    unlockpt(&pty)?;
    let name = ptsname(&pty, Vec::new())?;
    let slave = || OpenOptions::new().read(true).write(true).open(name.to_str()?).context("no pty");
    let terminal = slave()?;
    let before = tcgetattr(&terminal)?;

    let mut command = lab.xtask_command(&["run", CHECKS_TOML]);
    command.stdin(slave()?).stdout(slave()?).stderr(slave()?);
    let child = command.spawn().context("cannot start cargo")?;
    let mut person = Person::new(child, pty.try_clone()?.into(), pty.into());
    person.sees("4 CPUs")?;
    person.sees("checks ready")?;
    for (key, vm) in [("1", "checks"), ("2", "other")] {
        person.types(&format!("{CTRL_A}{key}"))?;
        person.sees(&format!("[{vm}]"))?;
        person.types("psci\n")?;
        person.sees("PASS psci")?;
    }
    person.types(&format!("{CTRL_A}n"))?;
    person.sees("[mobivmm]")?;
    person.types("weight other 100\r")?;
    person
        .sees("weight other 100\r\n> weight other 100\r\nvm other: Running, 2 vCPUs, weight 100, cap 0 %")?;
    person.types(&format!("{CTRL_A}?"))?;
    person.sees("0 mobivmm, 1 checks, 2 other")?;
    person.types(&format!("{CTRL_A}x"))?;
    let status = person.child.wait()?;
    ensure!(status.success(), "{status}\n{}", person.seen);
    let after = tcgetattr(&terminal)?;
    ensure!(after.local_modes == before.local_modes, "the terminal is left in {:?}", after.local_modes);
    Ok(())
}

/// Without a runner the same chords work on the UART, which carries plain text.
fn plain(lab: &Lab<'_>, name: &str) -> Result<()> {
    let mut command = lab.setup(name, CHECKS_TOML)?.plain_command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start QEMU")?;
    let (input, output) = (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
    let mut person = Person::new(child, OwnedFd::from(input).into(), OwnedFd::from(output).into());
    person.sees("MobiVMM ")?;
    person.sees("checks ready: vcpus=4")?;
    person.types("psci\n")?;
    person.sees("PASS psci")?;
    person.types(&format!("{CTRL_A}2spis\n"))?;
    person.sees("PASS spis")?;
    person.types(&format!("{CTRL_A}0cap other 150\r"))?;
    person.sees("cap other 150\r\n> cap other 150\r\nvm other: Running, 2 vCPUs, weight 256, cap 150 %")?;
    person.types(&format!("{CTRL_A}2off\n"))?;
    person.sees("vm other: stopped")?;
    person.types(&format!("{CTRL_A}1off\n"))?;
    person.sees("vm checks: stopped")?;
    person.sees("all VMs have stopped")
}

/// Somebody who types and reads. What was started ends with them.
struct Person {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// What came since the last thing that was looked for.
    seen: String,
}

impl Person {
    fn new(child: Child, keyboard: File, mut output: File) -> Self {
        let (sender, screen) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A pty whose last user is gone reads as an error.
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, screen, seen: String::new() }
    }

    fn types(&mut self, text: &str) -> Result<()> {
        self.keyboard.write_all(text.as_bytes()).context("nobody reads what is typed")
    }

    /// Waits for `text`, behind what was seen before.
    fn sees(&mut self, text: &str) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            match self.screen.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => bail!("{text:?} did not come ({error}):\n{}", self.seen),
            }
        }
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
