//! `cargo xtask setup`: brings the bare-metal target, QEMU and the Linux guest's parts, and says where they are.
//!
//! Each of the three is first looked for: what the user named, what the host has, what the cache has. Only what is
//! missing is brought, from Debian's archive into the cache. docs/setup.md tells the user about it.

mod apt;
mod archive;
mod cache;
mod command;
mod emulator;
mod guest;
mod manifest;
mod packages;
mod perfetto;
mod process;
mod program;
mod report;
mod toolchain;
mod xen;

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use self::archive::Archive;
use self::cache::Cache;
use self::guest::Guest;
use self::packages::PackageLock;
use self::report::note;

pub use self::command::{SetupCommand, command};
pub use self::perfetto::perfetto;
pub use self::process::output;
pub use self::toolchain::{TARGET, Toolchain};
pub use self::xen::xen;

/// What the user brings along instead of what setup would fetch. Flags win over the environment.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Own tools")]
pub struct SetupOptions {
    /// Directory for everything that setup downloads and builds
    #[arg(long, value_name = "DIR", env = "MOBIVMM_CACHE")]
    pub cache: Option<PathBuf>,
    /// Server to fetch Debian's packages from
    #[arg(long, value_name = "URL", env = "MOBIVMM_DEBIAN_MIRROR", default_value = "http://deb.debian.org")]
    pub debian_mirror: String,
    /// A rustc that has the target aarch64-unknown-none-softfloat
    #[arg(long, value_name = "FILE", env = "MOBIVMM_RUSTC")]
    pub rustc: Option<PathBuf>,
    /// qemu-system-aarch64, version 9.0 or newer
    #[arg(long, value_name = "FILE", env = "MOBIVMM_QEMU")]
    pub qemu: Option<PathBuf>,
    /// Linux for the guests: an uncompressed arm64 Image
    #[arg(long, value_name = "FILE", env = "MOBIVMM_KERNEL")]
    pub kernel: Option<PathBuf>,
    /// A static arm64 busybox for the guests' initramfs
    #[arg(long, value_name = "FILE", env = "MOBIVMM_BUSYBOX")]
    pub busybox: Option<PathBuf>,
    /// A whole initramfs for the guests, instead of one made of busybox
    #[arg(long, value_name = "FILE", env = "MOBIVMM_INITRAMFS")]
    pub initramfs: Option<PathBuf>,
    /// The Raspberry Pi 4's device tree blob, bcm2711-rpi-4-b.dtb
    #[arg(long, value_name = "FILE", env = "MOBIVMM_DTB_RPI4")]
    pub dtb_rpi4: Option<PathBuf>,
    /// Xen, to be compared with: an arm64 Image
    #[arg(long, value_name = "FILE", env = "MOBIVMM_XEN")]
    pub xen: Option<PathBuf>,
}

/// Where everything is that building for and running on the boards takes.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Builds for `aarch64-unknown-none-softfloat`.
    pub toolchain: Toolchain,
    /// `qemu-system-aarch64`, ready to be started by this path with no further environment or options.
    pub qemu: PathBuf,
    /// Linux for the guests: an uncompressed arm64 Image.
    pub kernel: PathBuf,
    /// The initramfs for the guests, `.cpio.gz`.
    pub initramfs: PathBuf,
    /// The Raspberry Pi 4's device tree blob; `None` if the user brought a kernel, but no blob.
    pub dtb_rpi4: Option<PathBuf>,
}

/// What looking for something came to.
enum Search<T> {
    Found(T),
    /// Why it is missing.
    Missing(String),
}

/// Brings what is missing and says where all of it is. Prints a line for each step; nothing if nothing is missing.
///
/// # Errors
/// What could not be had, and what the user can do about it.
pub fn run(options: &SetupOptions) -> Result<Tools> {
    let cache = Cache::locate(options.cache.as_deref())?;
    let lock = PackageLock::builtin()?;
    let archive = Archive { cache: &cache, lock: &lock, mirror: options.debian_mirror.trim_end_matches('/') };
    let found = Findings::search(options, archive)?;
    if found.missing().is_empty() {
        return found.tools();
    }
    found.check_possible()?;
    let _lock = cache.lock()?;
    cache.drop_damaged(false)?;
    // While this one waited for the lock, another setup may have brought it.
    Findings::search(options, archive)?.bring(archive)?;
    Findings::search(options, archive)?.tools()
}

/// What is there, and what is missing.
struct Findings {
    toolchain: Search<Toolchain>,
    qemu: Search<PathBuf>,
    guest: Search<Guest>,
}

/// Something that setup can bring.
struct Part {
    name: &'static str,
    bring: fn(Archive<'_>) -> Result<()>,
    /// How the user can do without that.
    advice: &'static str,
}

const TOOLCHAIN: Part = Part {
    name: "the bare-metal target",
    bring: toolchain::bring,
    advice: "run `rustup target add aarch64-unknown-none-softfloat`, or name a rustc that has this target with \
             --rustc or MOBIVMM_RUSTC",
};

const QEMU: Part = Part {
    name: "QEMU",
    bring: emulator::bring,
    advice: "install QEMU 9.0 or newer (macOS: `brew install qemu`; Fedora: `dnf install qemu-system-aarch64`; Arch: \
             `pacman -S qemu-system-aarch64`), or name its qemu-system-aarch64 with --qemu or MOBIVMM_QEMU",
};

const GUEST: Part = Part {
    name: "the Linux guest",
    bring: guest::bring,
    advice: "name an uncompressed arm64 Image with --kernel or MOBIVMM_KERNEL and a static arm64 busybox with --busybox \
             or MOBIVMM_BUSYBOX, for the Raspberry Pi also its device tree with --dtb-rpi4 or MOBIVMM_DTB_RPI4; \
             docs/setup.md, \"Without apt\", has the commands that get them from Debian",
};

const SPACE_ADVICE: &str = "\n  Setup needs 2 GB for a while and leaves 800 MB; name a cache on another disk with \
     --cache or MOBIVMM_CACHE.";

impl Findings {
    fn search(options: &SetupOptions, archive: Archive<'_>) -> Result<Self> {
        Ok(Self {
            toolchain: toolchain::search(options, archive)?,
            qemu: emulator::search(options, archive)?,
            guest: guest::search(options, archive)?,
        })
    }

    /// What is missing, and why.
    fn missing(&self) -> Vec<(Part, &str)> {
        let mut missing = Vec::new();
        if let Search::Missing(why) = &self.toolchain {
            missing.push((TOOLCHAIN, why.as_str()));
        }
        if let Search::Missing(why) = &self.qemu {
            missing.push((QEMU, why));
        }
        if let Search::Missing(why) = &self.guest {
            missing.push((GUEST, why));
        }
        missing
    }

    /// Refuses, with all the advice at once, if there is no apt to bring what is missing.
    fn check_possible(&self) -> Result<()> {
        let Some(program) = apt::missing_program() else {
            return Ok(());
        };
        let by_rustup = matches!(self.toolchain, Search::Missing(_)) && toolchain::rustup_may_download();
        let mut text = String::new();
        for (part, why) in self.missing().iter().skip(usize::from(by_rustup)) {
            text += &format!("\n  * {}: {why}\n    You can {}.", part.name, part.advice);
        }
        if text.is_empty() {
            return Ok(());
        }
        bail!(
            "setup would bring what is missing from Debian's archive, but {program} is not installed:{text}"
        );
    }

    /// Brings what is missing.
    fn bring(&self, archive: Archive<'_>) -> Result<()> {
        let missing = self.missing();
        if !missing.is_empty() {
            note(format_args!(
                "bringing what is missing, once for all clones, into {}; the first time takes some minutes",
                archive.cache.root().display()
            ));
        }
        for (part, why) in missing {
            note(format_args!("{} is missing: {why}", part.name));
            (part.bring)(archive).map_err(|error| {
                let full = format!("{error:#}").contains("No space left");
                let space = if full { SPACE_ADVICE } else { "" };
                let Part { name, advice, .. } = part;
                anyhow!("cannot bring {name}: {error:#}{space}\n  To do without it you can {advice}.")
            })?;
        }
        Ok(())
    }

    /// Where all of it is.
    fn tools(self) -> Result<Tools> {
        match self {
            Self {
                toolchain: Search::Found(toolchain),
                qemu: Search::Found(qemu),
                guest: Search::Found(Guest { kernel, initramfs, dtb_rpi4 }),
            } => Ok(Tools { toolchain, qemu, kernel, initramfs, dtb_rpi4 }),
            missing => bail!("{} vanished from the cache while setup ran", missing.missing()[0].0.name),
        }
    }
}
