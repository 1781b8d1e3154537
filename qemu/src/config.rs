//! What QEMU is started with: from a [`Config`] to its command line.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

/// The `qemu-system-aarch64` to use.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its first arguments, such as `-L` with the directory of its ROMs.
    pub args: Vec<OsString>,
}

impl From<PathBuf> for Program {
    fn from(path: PathBuf) -> Self {
        Self { path, args: Vec::new() }
    }
}

/// The interrupt controller of QEMU's `virt` board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gic {
    /// GICv2, with its virtualisation extensions.
    V2,
    /// GICv3.
    #[default]
    V3,
}

impl FromStr for Gic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "2" => Ok(Self::V2),
            "3" => Ok(Self::V3),
            _ => Err("the GIC is 2 or 3".into()),
        }
    }
}

impl fmt::Display for Gic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "2",
            Self::V3 => "3",
        })
    }
}

/// The machine that QEMU emulates.
#[derive(Clone, Debug)]
pub enum Board {
    /// QEMU's `virt`, with EL2.
    Virt {
        /// Its interrupt controller.
        gic: Gic,
        /// The CPU model, such as `cortex-a72` or `max`.
        cpu: String,
        /// The number of CPUs.
        cpus: u32,
        /// RAM, in MiB.
        memory_mib: u32,
    },
    /// QEMU's `raspi4b`: always four Cortex-A72 and 2 GiB.
    Rpi4 {
        /// The device tree. Without one QEMU passes none on, unlike the firmware of a real board.
        dtb: PathBuf,
    },
}

/// One machine to be started.
#[derive(Clone, Debug)]
pub struct Config {
    /// The emulator.
    pub program: Program,
    /// The machine.
    pub board: Board,
    /// Deterministic virtual time: one instruction is one nanosecond, and idle time passes at once. A scripted run then has
    /// semihosting, by which the guests' kernels can reach the host's files: the guests are to be trusted.
    pub icount: bool,
    /// The EL2 program: an arm64 `Image`.
    pub image: PathBuf,
    /// The FIT image with the guests.
    pub bundle: Option<PathBuf>,
    /// Further words of the EL2 program's command line, after the runner's own `console=`.
    pub bootargs: Vec<String>,
    /// Further arguments for QEMU, the last on its command line.
    pub extra: Vec<OsString>,
}

/// How the multiplexed consoles travel between EL2 and the runner (the word `console=` of EL2's command line).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Over the UART.
    Mux,
    /// By semihosting, in lockstep.
    Lockstep,
    /// There are none: the UART has one console, of a program that is not MobiVMM.
    Plain,
}

impl Config {
    /// QEMU's command for this machine.
    pub(crate) fn command(&self, transport: Transport) -> Command {
        let mut command = Command::new(&self.program.path);
        command.args(&self.program.args);
        match &self.board {
            Board::Virt { gic, cpu, cpus, memory_mib } => {
                // The seeds that QEMU puts into the device tree would make every boot different.
                let machine = format!("virt,virtualization=on,gic-version={gic},dtb-randomness=off");
                // Without it the emulation of pointer authentication takes most of the host's time.
                let cpu = if cpu == "max" { "max,pauth-impdef=on" } else { cpu };
                command.args(["-M", &machine, "-cpu", cpu, "-smp", &cpus.to_string()]);
                command.args(["-m", &format!("{memory_mib}M"), "-nic", "none"]);
            }
            Board::Rpi4 { dtb } => {
                command.args(["-M", "raspi4b", "-smp", "4", "-m", "2G", "-dtb"]).arg(dtb);
            }
        }
        if self.icount {
            command.args(["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-seed", "1"]);
        }
        command.args(["-display", "none", "-monitor", "none", "-no-reboot"]);
        let console = match transport {
            Transport::Mux | Transport::Plain => {
                command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
                (transport == Transport::Mux).then_some("console=mux")
            }
            Transport::Lockstep => {
                // QEMU offers it to the kernels of guests as well: they could reach the host's files.
                command.args(["-semihosting-config", "enable=on,target=native"]);
                command.args(["-serial", "null"]);
                Some("console=lockstep")
            }
        };
        command.arg("-kernel").arg(&self.image);
        if let Some(bundle) = &self.bundle {
            command.arg("-initrd").arg(bundle);
        }
        let words: Vec<&str> = console.into_iter().chain(self.bootargs.iter().map(String::as_str)).collect();
        command.arg("-append").arg(words.join(" "));
        command.args(&self.extra);
        command
    }
}

/// The command as a line for a POSIX shell.
pub(crate) fn shell_line(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    if !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c)) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(board: Board) -> Config {
        Config {
            program: Program { path: "qemu".into(), args: vec!["-L".into(), "a user's rom".into()] },
            board,
            icount: false,
            image: "Image".into(),
            bundle: Some("my phone.itb".into()),
            bootargs: vec!["trace=on".into()],
            extra: vec!["-s".into()],
        }
    }

    #[test]
    fn virt_by_default_talks_over_the_uart() {
        let board = Board::Virt { gic: Gic::V2, cpu: "max".into(), cpus: 2, memory_mib: 1024 };
        let line = shell_line(&config(board).command(Transport::Mux));
        assert_eq!(
            line,
            "qemu -L 'a user'\\''s rom' -M virt,virtualization=on,gic-version=2,dtb-randomness=off \
             -cpu max,pauth-impdef=on -smp 2 -m 1024M -nic none -display none -monitor none -no-reboot \
             -chardev stdio,id=console,signal=off \
             -serial chardev:console -kernel Image -initrd 'my phone.itb' -append 'console=mux trace=on' -s"
        );
    }

    #[test]
    fn another_program_gets_its_own_words_only() {
        let board = Board::Virt { gic: Gic::V3, cpu: "cortex-a72".into(), cpus: 1, memory_mib: 1024 };
        let line = shell_line(&config(board).command(Transport::Plain));
        assert!(line.contains("-serial chardev:console ") && line.contains("-append trace=on "), "{line}");
    }

    #[test]
    fn icount_fixes_every_source_of_time_and_chance() {
        let mut config = config(Board::Rpi4 { dtb: "pi.dtb".into() });
        config.icount = true;
        let line = shell_line(&config.command(Transport::Lockstep));
        assert!(line.contains("-M raspi4b -smp 4 -m 2G -dtb pi.dtb "), "{line}");
        assert!(line.contains("-icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm -seed 1 "), "{line}");
        assert!(line.contains("-semihosting-config enable=on,target=native -serial null "), "{line}");
        assert!(line.contains("-append 'console=lockstep trace=on'"), "{line}");
    }
}
