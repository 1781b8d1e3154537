//! `cargo xtask setup`: brings the bare-metal target, QEMU and the Linux guest's parts, and says where they are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

/// What the user brings along instead of what setup would fetch. Flags win over the environment.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SetupOptions {
    /// Directory for everything that setup downloads and builds
    #[arg(long, value_name = "DIR", env = "MOBIVMM_CACHE", help_heading = "Own tools", global = true)]
    pub cache: Option<PathBuf>,
    /// qemu-system-aarch64, version 9.0 or newer
    #[arg(long, value_name = "FILE", env = "MOBIVMM_QEMU", help_heading = "Own tools", global = true)]
    pub qemu: Option<PathBuf>,
    /// A rustc that has the target aarch64-unknown-none-softfloat
    #[arg(long, value_name = "FILE", env = "MOBIVMM_RUSTC", help_heading = "Own tools", global = true)]
    pub rustc: Option<PathBuf>,
    /// Linux for the guests: an uncompressed arm64 Image
    #[arg(long, value_name = "FILE", env = "MOBIVMM_KERNEL", help_heading = "Own tools", global = true)]
    pub kernel: Option<PathBuf>,
    /// A static arm64 busybox for the guests' initramfs
    #[arg(long, value_name = "FILE", env = "MOBIVMM_BUSYBOX", help_heading = "Own tools", global = true)]
    pub busybox: Option<PathBuf>,
    /// A whole initramfs for the guests, instead of one made from busybox
    #[arg(long, value_name = "FILE", env = "MOBIVMM_INITRAMFS", help_heading = "Own tools", global = true)]
    pub initramfs: Option<PathBuf>,
    /// The Raspberry Pi 4's device tree blob, bcm2711-rpi-4-b.dtb
    #[arg(long, value_name = "FILE", env = "MOBIVMM_DTB_RPI4", help_heading = "Own tools", global = true)]
    pub dtb_rpi4: Option<PathBuf>,
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

/// The Rust toolchain for the bare-metal target.
#[derive(Clone, Debug, Default)]
pub struct Toolchain {
    /// Directory with `rustc`, `clippy-driver` and `cargo-clippy`, to be put before the others on PATH; `None` if
    /// cargo's own rustc has the target.
    pub bin: Option<PathBuf>,
}

impl Toolchain {
    /// `cargo`, prepared to build for the bare-metal target; the caller adds the arguments, `--target` included.
    pub fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        if let Some(bin) = &self.bin {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&path)));
            cargo.env("RUSTC", bin.join("rustc")).env("PATH", path.unwrap_or_default());
        }
        cargo
    }
}

/// Brings what is missing and says where all of it is. Prints one line a step; nothing if nothing is missing.
///
/// # Errors
/// What could not be had, and what the user can do about it.
pub fn run(options: &SetupOptions) -> Result<Tools> {
    let hand = |path: &Option<PathBuf>, flag: &str| path.clone().with_context(|| format!("no {flag} given"));
    Ok(Tools {
        toolchain: Toolchain { bin: options.rustc.as_ref().and_then(|p| p.parent()).map(PathBuf::from) },
        qemu: hand(&options.qemu, "--qemu")?,
        kernel: hand(&options.kernel, "--kernel")?,
        initramfs: hand(&options.initramfs, "--initramfs")?,
        dtb_rpi4: options.dtb_rpi4.clone(),
    })
}
