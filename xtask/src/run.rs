//! `cargo xtask run`: builds a machine and starts it on QEMU.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use machines::Machine;
use qemu::{Board, Config, Gic, Observer, Run, Symbols};

use crate::board::BoardName;
use crate::build::{Builder, Hypervisor};
use crate::script::ScriptArgs;
use crate::setup::{self, SetupOptions, Tools};
use crate::trace::Tracer;
use crate::trace::top::TopOptions;

/// How long a run without a person may take, in seconds on the host's clock.
const TIMEOUT: u64 = 120;
/// RAM beside that of the VMs, in MiB: EL2, the bundle and split tables.
const HOST_MIB: u64 = 256;
/// Where QEMU's `virt` has its RAM.
const VIRT_RAM: u64 = 0x4000_0000;

/// Options of `cargo xtask run`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// The machine file [default: machines/phone.toml]
    #[arg(value_name = "MACHINE.toml")]
    machine: Option<PathBuf>,
    /// The board that QEMU emulates
    #[arg(long, value_enum, default_value_t = BoardName::Virt)]
    board: BoardName,
    /// The version of virt's interrupt controller [default: 3]
    #[arg(long, value_name = "2|3")]
    gic: Option<Gic>,
    /// The number of virt's CPUs [default: 4]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// The model of virt's CPUs [default: cortex-a72]
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// Deterministic virtual time: two runs print the same, to the byte. Guests can then reach this host by semihosting: run only
    /// what you trust
    #[arg(long)]
    icount: bool,
    #[command(flatten)]
    script: ScriptArgs,
    /// Fail after this many seconds on the host's clock; 0: never [default: 120, at a terminal 0]
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Write the consoles' lines to this file too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write what the CPUs and the vCPUs do to this file, a Perfetto trace
    #[arg(long, value_name = "FILE.pftrace")]
    trace: Option<PathBuf>,
    /// How often the trace is read where the machine does not wait for that, on the host's clock: what the hypervisor writes over
    /// meanwhile is lost
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = machines::duration)]
    trace_every: u64,
    /// Further arguments for QEMU
    #[arg(last = true, value_name = "QEMU-ARGS")]
    qemu_args: Vec<OsString>,
    #[command(flatten)]
    setup: SetupOptions,
}

/// Builds the machine, starts it, and ends when its script is done, or QEMU ends by itself.
///
/// # Errors
/// Why the machine could not be built or started, or why the run failed.
pub fn run(options: RunOptions) -> Result<()> {
    let machine = options.machine()?;
    start(options, &machine, None)
}

/// The same, and shows figures instead of consoles, until they were enough.
///
/// # Errors
/// The same.
pub fn top(options: TopOptions) -> Result<()> {
    let machine = options.run.machine()?;
    start(options.run.clone(), &machine, Some(&options))
}

fn start(options: RunOptions, machine: &Machine, top: Option<&TopOptions>) -> Result<()> {
    let log = options.log.as_deref().map(create).transpose()?;

    let builder = Builder::new(setup::run(&options.setup)?);
    let board = options.board(machine, builder.tools())?;
    let hypervisor = builder.hypervisor()?;
    let bundle = builder.bundle(machine, &hypervisor.image)?;
    let Hypervisor { elf, image, sha256 } = hypervisor;
    let mut config = Config {
        program: builder.tools().qemu.clone().into(),
        board,
        icount: options.icount,
        image,
        bundle: Some(bundle),
        bootargs: Vec::new(),
        extra: options.qemu_args,
    };

    let people = stdin().is_terminal() && stdout().is_terminal();
    let interactive = top.is_none() && options.script.0.is_empty() && people;
    let mut tracer = if top.is_some() || options.trace.is_some() {
        let top = top.map(|top| top.top(machine)).transpose()?;
        let lockstep = options.icount && !interactive;
        Some(Tracer::new(&mut config, machine, options.trace.as_deref(), top, lockstep)?)
    } else {
        None
    };
    let symbols = Symbols::load(&elf, Builder::root())?;
    let every = Duration::from_nanos(options.trace_every);
    let printer = Printer { to_stdout: !interactive && top.is_none(), log, tracer: tracer.as_mut(), every };
    let mut run = Run::new(config, machine.vms.iter().map(|vm| vm.name.as_str()))
        .script(options.script.0)
        .symbols(symbols)
        .observer(printer);
    if interactive {
        run = run.interactive();
    }
    let default = if interactive || (top.is_some() && people) { 0 } else { TIMEOUT };
    if let seconds @ 1.. = options.timeout.unwrap_or(default) {
        run = run.timeout(Duration::from_secs(seconds));
    }
    if top.is_none() {
        println!("mobivmm image sha256={sha256}");
        println!("{}", run.command_line());
    }
    let outcome = run.execute()?;
    let traced = tracer.map_or(Ok(()), Tracer::finish);
    outcome.success()?;
    traced
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

impl RunOptions {
    fn machine(&self) -> Result<Machine> {
        let default = || Builder::root().join("machines/phone.toml");
        Ok(Machine::load(&self.machine.clone().unwrap_or_else(default))?)
    }

    fn board(&self, machine: &Machine, tools: &Tools) -> Result<Board> {
        match self.board {
            BoardName::Virt => Ok(Board::Virt {
                gic: self.gic.unwrap_or_default(),
                cpu: self.cpu.clone().unwrap_or_else(|| "cortex-a72".into()),
                cpus: self.cpus.unwrap_or(4),
                memory_mib: memory_mib(machine),
            }),
            BoardName::Rpi4 => {
                let fixed = self.gic.is_none() && self.cpus.is_none() && self.cpu.is_none();
                ensure!(
                    fixed,
                    "--gic, --cpus and --cpu are for --board virt: the Raspberry Pi 4 is what it is"
                );
                let dtb = tools.dtb_rpi4.clone();
                Ok(Board::Rpi4 {
                    dtb: dtb.context("no device tree of the Raspberry Pi 4: give one by --dtb-rpi4")?,
                })
            }
        }
    }
}

/// RAM for `machine`, at least 1 GiB.
fn memory_mib(machine: &Machine) -> u32 {
    let memory = || machine.vms.iter().map(|vm| vm.memory);
    let sum: u64 = memory().map(|memory| memory.size).fold(0, u64::saturating_add);
    // RAM at fixed physical addresses must lie inside the board's.
    let fixed =
        memory().filter(|m| m.identity).map(|m| m.base.saturating_add(m.size).saturating_sub(VIRT_RAM));
    let mib = sum.max(fixed.max().unwrap_or(0)).div_ceil(1 << 20) + HOST_MIB;
    u32::try_from(mib.next_multiple_of(HOST_MIB)).unwrap_or(u32::MAX).max(1024)
}

/// Prints the consoles' lines as `VM | line`.
struct Printer<'a> {
    to_stdout: bool,
    log: Option<File>,
    tracer: Option<&'a mut Tracer>,
    /// How often that is to look.
    every: Duration,
}

impl Observer for Printer<'_> {
    fn interval(&self) -> Option<Duration> {
        self.tracer.as_ref().map(|_| self.every)
    }

    fn look(&mut self) -> bool {
        self.tracer.as_mut().is_some_and(|tracer| tracer.look())
    }

    fn line(&mut self, vm: &str, line: &str) {
        if let Some(tracer) = &mut self.tracer {
            tracer.line(vm, line);
        }
        let line = format!("{vm} | {line}\n");
        let printed = if self.to_stdout { stdout().write_all(line.as_bytes()) } else { Ok(()) };
        let logged = self.log.as_mut().map_or(Ok(()), |log| log.write_all(line.as_bytes()));
        if let Err(error) = printed.and(logged) {
            // Nobody reads us any more, or the disk is full. QEMU ends with this process.
            eprintln!("error: cannot write the consoles' lines: {error}");
            std::process::exit(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(vms: &[(&str, &str)]) -> Machine {
        let vms = vms.iter().map(|(name, memory)| {
            format!("[[vm]]\nname = {name:?}\nkernel = \"a:b\"\nvcpus = 1\nmemory = {memory}\nschedule = {{ weight = 1 }}\n")
        });
        let text = format!("[machine]\nname = \"m\"\n{}", vms.collect::<String>());
        Machine::parse(Path::new("m.toml"), &text).unwrap()
    }

    #[test]
    fn ram_holds_all_vms_and_the_hypervisor() {
        assert_eq!(memory_mib(&machine(&[("a", "\"16MiB\"")])), 1024);
        assert_eq!(memory_mib(&machine(&[("a", "\"512MiB\""), ("b", "\"512MiB\"")])), 1280);
        assert_eq!(
            memory_mib(&machine(&[("a", "{ size = \"64MiB\", base = 0x1_0000_0000, identity = true }")])),
            3584
        );
    }
}
