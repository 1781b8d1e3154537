//! Machines to be tested: how one is put together, started and questioned.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use machines::{Machine, Resolver};
use qemu::{Board, Config, Ending, Gic, HYPERVISOR, Observer, Outcome, Recording, Run, Step, Symbols};
use sha2::{Digest, Sha256};

/// How long a run may take on the host's clock: several times what it takes on two cores.
const TIMEOUT: Duration = Duration::from_secs(180);

/// What the tests work with, found or built beforehand.
pub struct Lab<'a> {
    /// The top directory of the workspace.
    pub root: PathBuf,
    /// `qemu-system-aarch64`.
    pub qemu: PathBuf,
    /// The EL2 program, with symbols.
    pub elf: PathBuf,
    /// The EL2 program's arm64 `Image`.
    pub image: PathBuf,
    /// The QEMU plugin.
    pub plugin: PathBuf,
    /// The Raspberry Pi 4's device tree.
    pub dtb_rpi4: Option<PathBuf>,
    /// Finds and builds the guests.
    pub resolver: &'a Resolver<'a>,
    /// Finds or brings Perfetto's published schema: a directory of Python packages.
    pub schema: &'a dyn Fn() -> Result<PathBuf>,
    /// The environment in which `cargo xtask` finds the same tools again.
    pub environment: Vec<(&'static str, OsString)>,
    /// Where the tests leave their files: NAME.itb, and the consoles' lines in NAME.log.
    pub files: PathBuf,
}

impl Lab<'_> {
    /// The machine of a machine file, given relative to the workspace, on QEMU's `virt` with four Cortex-A72. `name` is for its files.
    pub fn setup(&self, name: &str, machine: &str) -> Result<Setup> {
        let machine = Machine::load(&self.root.join(machine))?;
        self.setup_of(name, &machine)
    }

    /// The same of a machine that need not be in a file.
    pub fn setup_of(&self, name: &str, machine: &Machine) -> Result<Setup> {
        let bundle = self.files.join(name).with_added_extension("itb");
        fs::write(&bundle, machine.compile(self.resolver)?).with_context(|| bundle.display().to_string())?;
        Ok(Setup {
            config: Config {
                program: self.qemu.clone().into(),
                board: Board::Virt { gic: Gic::V3, cpu: "cortex-a72".into(), cpus: 4, memory_mib: 1536 },
                icount: false,
                image: self.image.clone(),
                bundle: Some(bundle),
                bootargs: Vec::new(),
                extra: Vec::new(),
            },
            vms: machine.vms.iter().map(|vm| vm.name.clone()).collect(),
            elf: self.elf.clone(),
            root: self.root.clone(),
            uart: false,
            log: self.files.join(name).with_added_extension("log"),
            timeout: TIMEOUT,
        })
    }

    /// Runs `cargo xtask` with these arguments, without a terminal.
    pub fn xtask(&self, arguments: &[&str]) -> Result<Output> {
        self.xtask_command(arguments).output().context("cannot start cargo")
    }

    /// `cargo xtask` with these arguments and the tools of the tests.
    pub fn xtask_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.arg("xtask").args(arguments).current_dir(&self.root);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A machine, ready to be started.
#[derive(Clone)]
pub struct Setup {
    config: Config,
    vms: Vec<String>,
    elf: PathBuf,
    root: PathBuf,
    uart: bool,
    log: PathBuf,
    timeout: Duration,
}

impl Setup {
    /// Another version of the interrupt controller.
    pub fn gic(mut self, version: Gic) -> Self {
        if let Board::Virt { gic, .. } = &mut self.config.board {
            *gic = version;
        }
        self
    }

    /// Other CPUs.
    pub fn cpus(mut self, model: &str, count: u32) -> Self {
        if let Board::Virt { cpu, cpus, .. } = &mut self.config.board {
            (*cpu, *cpus) = (model.into(), count);
        }
        self
    }

    /// Another amount of RAM.
    pub fn memory(mut self, mib: u32) -> Self {
        if let Board::Virt { memory_mib, .. } = &mut self.config.board {
            *memory_mib = mib;
        }
        self
    }

    /// The Raspberry Pi 4 instead of `virt`.
    pub fn rpi4(mut self, lab: &Lab<'_>) -> Result<Self> {
        let dtb =
            lab.dtb_rpi4.clone().context("no device tree of the Raspberry Pi 4: give one by --dtb-rpi4")?;
        self.config.board = Board::Rpi4 { dtb };
        Ok(self)
    }

    /// Deterministic virtual time, or not.
    pub fn icount(mut self, icount: bool) -> Self {
        self.config.icount = icount;
        self
    }

    /// The consoles go over the UART even if virtual time is deterministic: what is typed interrupts, at times that are the host's affair.
    pub fn uart(self) -> Self {
        Self { uart: true, ..self }
    }

    /// Whether virtual time is deterministic, so that times mean something.
    pub fn is_icount(&self) -> bool {
        self.config.icount
    }

    /// Has the QEMU plugin record the run.
    pub fn record(mut self, recording: &Recording) -> Self {
        self.config.extra.extend(recording.arguments());
        self
    }

    /// Writes the log elsewhere, for a second run of one test.
    pub fn log(mut self, suffix: &str) -> Self {
        self.log = self.log.with_extension(suffix);
        self
    }

    /// Another limit on the host's clock, in seconds.
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// Damages the bundle.
    pub fn corrupt(self, damage: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Self> {
        if let Some(path) = &self.config.bundle {
            let mut bytes = fs::read(path)?;
            damage(&mut bytes)?;
            fs::write(path, bytes)?;
        }
        Ok(self)
    }

    /// Starts the machine and goes through the script. It is an error if the script does not come to its end, or if a guest says
    /// `FAIL`.
    pub fn run(self, script: Vec<Step>) -> Result<Report> {
        let report = self.start(script)?;
        Ok(Report { outcome: report.outcome.success()?, ..report }).and_then(Report::checked)
    }

    /// The same, then waits until QEMU ends by itself with this status.
    pub fn run_to_status(self, mut script: Vec<Step>, code: i32) -> Result<Report> {
        let end = Step::until(HYPERVISOR, "^the end of QEMU$")?;
        let waiting_for = Some(end.to_string());
        script.push(end);
        let report = self.start(script)?;
        match &report.outcome.ending {
            Ending::Exited(status)
                if status.code() == Some(code) && report.outcome.waiting_for == waiting_for =>
            {
                report.checked()
            }
            _ => Err(report.outcome.success().err().context("QEMU did not end")?.into()),
        }
    }

    /// QEMU's command for the same machine with a plain text console, which nobody has to decode, on its standard input and output.
    pub fn plain_command(self) -> Command {
        let mut config = self.config;
        config.extra.extend(["-append".into(), "".into()]);
        Run::new(config, self.vms).command()
    }

    fn start(self, script: Vec<Step>) -> Result<Report> {
        let mut lines = Vec::new();
        let file = File::create(&self.log).with_context(|| self.log.display().to_string())?;
        let run = Run::new(self.config, self.vms);
        let run = if self.uart { run.uart() } else { run };
        let run = run
            .script(script)
            .timeout(self.timeout)
            .symbols(Symbols::load(&self.elf, &self.root)?)
            .observer(Recorder { lines: &mut lines, file: BufWriter::new(file) });
        let command_line = run.command_line();
        let outcome = run.execute()?;
        Ok(Report { outcome, command_line, lines })
    }
}

/// Keeps each line, in the order in which they came, and writes it to a file.
struct Recorder<'a> {
    lines: &'a mut Vec<String>,
    file: BufWriter<File>,
}

impl Observer for Recorder<'_> {
    fn line(&mut self, vm: &str, line: &str) {
        let line = format!("{vm} | {line}");
        // The file is for people: a full disk shows soon enough elsewhere.
        let _ = writeln!(self.file, "{line}");
        self.lines.push(line);
    }
}

/// How a run went.
pub struct Report {
    /// What the runner says.
    pub outcome: Outcome,
    /// QEMU's command line.
    pub command_line: String,
    /// All consoles' lines as `VM | line`, in the order in which they came.
    pub lines: Vec<String>,
}

impl Report {
    fn checked(self) -> Result<Self> {
        let mut lines = self.lines.iter();
        match lines.position(|line| line.contains("| FAIL")) {
            None => Ok(self),
            Some(at) => {
                bail!("{}", self.lines[at.saturating_sub(5)..self.lines.len().min(at + 5)].join("\n"))
            }
        }
    }

    /// The SHA-256 of the file that the command line names as the EL2 image.
    pub fn image_sha256(&self) -> Result<Vec<u8>> {
        let (_, rest) =
            self.command_line.split_once(" -kernel ").context("no -kernel on QEMU's command line")?;
        let path = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next(),
            None => rest.split(' ').next(),
        };
        let path = Path::new(path.unwrap_or_default());
        Ok(Sha256::digest(fs::read(path).with_context(|| path.display().to_string())?).to_vec())
    }

    /// Fails unless a line of the hypervisor's log has all of these words.
    pub fn expect_log(&self, words: &[&str]) -> Result<()> {
        let log = self.outcome.console(HYPERVISOR);
        let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(found, "no line of the hypervisor's log has {words:?}:\n{log}");
        Ok(())
    }
}

/// Types a line into a console.
pub fn send(vm: &str, line: &str) -> Step {
    Step::send(vm, format!("{line}\n"))
}

/// Waits for a console to match.
pub fn until(vm: &str, regex: &str) -> Result<Step> {
    Step::until(vm, regex)
}
