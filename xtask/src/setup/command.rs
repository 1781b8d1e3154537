//! `cargo xtask setup` itself.

use std::path::Path;

use anyhow::{Context, Result};

use super::archive;
use super::cache::{Cache, write_whole};
use super::packages::SETS;
use super::report::note;
use super::{SetupOptions, Tools, run};

/// Bring the bare-metal target, QEMU and the Linux guest's parts; does only what is missing
#[derive(clap::Args, Clone, Debug)]
pub struct SetupCommand {
    /// Check the contents of all that is in the cache, and bring anew what is damaged
    #[arg(long)]
    pub verify: bool,
    /// Print shell commands that make cargo build for the bare-metal target, for `eval "$(...)"`
    #[arg(long)]
    pub print_env: bool,
    /// Record the archive's current packages in xtask/packages.lock, and do nothing else
    #[arg(long, conflicts_with_all = ["verify", "print_env"])]
    pub update_lock: bool,
    /// What the user brings along.
    #[command(flatten)]
    pub options: SetupOptions,
}

/// Does what the command line says.
///
/// # Errors
/// What could not be had, and what the user can do about it.
pub fn command(command: &SetupCommand) -> Result<()> {
    let cache = Cache::locate(command.options.cache.as_deref())?;
    if command.update_lock {
        let _lock = cache.lock()?;
        let packages = archive::current(&cache, &command.options.debian_mirror, &SETS)?;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packages.lock");
        return write_whole(&file, packages.to_string().as_bytes());
    }
    if command.verify {
        let _lock = cache.lock()?;
        cache.drop_damaged(true)?;
    }
    let tools = run(&command.options)?;
    if command.print_env {
        print!("{}", environment(&tools).context("a path of the tools is not UTF-8")?);
    } else {
        note(format_args!("all is in place ({})", cache.root().display()));
    }
    Ok(())
}

/// The tools as the shell commands of POSIX.
fn environment(tools: &Tools) -> Option<String> {
    let quoted = |path: &Path| Some(format!("'{}'", path.to_str()?.replace('\'', r"'\''")));
    let mut text = String::new();
    if let Some(bin) = &tools.toolchain.bin {
        text += &format!("export PATH={}:\"$PATH\"\n", quoted(bin)?);
        for (variable, program) in [("RUSTC", "rustc"), ("RUSTDOC", "rustdoc")] {
            text += &format!("export {variable}={}\n", quoted(&bin.join(program))?);
        }
    }
    text += &format!("export MOBIVMM_QEMU={}\n", quoted(&tools.qemu)?);
    text += &format!("export MOBIVMM_KERNEL={}\n", quoted(&tools.kernel)?);
    text += &format!("export MOBIVMM_INITRAMFS={}\n", quoted(&tools.initramfs)?);
    if let Some(blob) = &tools.dtb_rpi4 {
        text += &format!("export MOBIVMM_DTB_RPI4={}\n", quoted(blob)?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::super::Toolchain;
    use super::*;

    #[test]
    fn the_shell_gets_each_path_as_it_is() {
        let tools = Tools {
            toolchain: Toolchain { bin: Some("/c a/bin".into()) },
            qemu: "/it's/qemu".into(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
            dtb_rpi4: None,
        };
        let expected = "export PATH='/c a/bin':\"$PATH\"\nexport RUSTC='/c a/bin/rustc'\nexport RUSTDOC='/c a/bin/rustdoc'\n\
                        export MOBIVMM_QEMU='/it'\\''s/qemu'\nexport MOBIVMM_KERNEL='/k'\n\
                        export MOBIVMM_INITRAMFS='/i'\n";
        assert_eq!(environment(&tools).unwrap(), expected);
    }
}
