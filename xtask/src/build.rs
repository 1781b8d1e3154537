//! Builds what a machine needs: the EL2 program, the bare-metal guests, the Linux guest, the bundle.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use machines::Machine;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::setup::{TARGET, Tools};

/// The package of the QEMU plugin.
const PLUGIN: &str = "mobivmm-qemu-plugin";

/// Builds with the tools that setup found.
#[derive(Clone)]
pub struct Builder {
    tools: Tools,
}

/// The EL2 program.
#[derive(Clone)]
pub struct Hypervisor {
    /// With symbols, for backtraces.
    pub elf: PathBuf,
    /// The arm64 `Image` that is started.
    pub image: PathBuf,
    /// The SHA-256 of the image, in hexadecimal.
    pub sha256: String,
}

impl Builder {
    /// A builder with these tools.
    pub fn new(tools: Tools) -> Self {
        Self { tools }
    }

    /// The tools.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The top directory of the workspace.
    pub fn root() -> &'static Path {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.parent().unwrap_or(here)
    }

    /// Builds the EL2 program.
    ///
    /// # Errors
    /// It does not compile, or what comes out is no image.
    pub fn hypervisor(&self) -> Result<Hypervisor> {
        self.hypervisor_with(&[])
    }

    /// The same, with more arguments for cargo.
    ///
    /// # Errors
    /// As there.
    pub fn hypervisor_with(&self, arguments: &[&OsStr]) -> Result<Hypervisor> {
        let elf = self.binary("mobivmm", "mobivmm", arguments)?;
        let bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let bytes = qemu::flatten(&bytes).with_context(|| elf.display().to_string())?;
        let image = elf.with_extension("img");
        write(&image, &bytes)?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Hypervisor { elf, image, sha256 })
    }

    /// Compiles a machine file into the bundle NAME.itb below the target directory; `beside` is a file there.
    ///
    /// # Errors
    /// An image that the machine file names is not there or does not fit.
    pub fn bundle(&self, machine: &Machine, beside: &Path) -> Result<PathBuf> {
        let bytes = machine.compile(&|package, file| self.artefact(package, file))?;
        let bundle = beside.with_file_name(&machine.name).with_added_extension("itb");
        write(&bundle, &bytes)?;
        Ok(bundle)
    }

    /// The built-in artefact `package:file` of a machine file: the Linux guest's parts, or the bare-metal binary `file` of
    /// the workspace's `package`.
    ///
    /// # Errors
    /// There is no such artefact, or it does not compile.
    pub fn artefact(&self, package: &str, file: &str) -> Result<PathBuf> {
        match (package, file) {
            ("linux-guest", "Image") => Ok(self.tools.kernel.clone()),
            ("linux-guest", "initramfs.cpio.gz") => Ok(self.tools.initramfs.clone()),
            ("linux-guest", _) => bail!("linux-guest has Image and initramfs.cpio.gz, but no {file}"),
            _ => self.binary(package, file, &[]),
        }
    }

    /// Builds the QEMU plugin, for the host; returns the shared library.
    ///
    /// # Errors
    /// It does not compile.
    pub fn plugin(&self) -> Result<PathBuf> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .current_dir(Self::root())
            .args(["build", "--release", "--message-format=json-render-diagnostics", "--package", PLUGIN])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        ensure!(output.status.success(), "cannot build {PLUGIN} (see above)");
        library(&output.stdout, PLUGIN).with_context(|| format!("cargo built no {PLUGIN}"))
    }

    /// Builds a bare-metal binary; returns its ELF file.
    fn binary(&self, package: &str, name: &str, arguments: &[&OsStr]) -> Result<PathBuf> {
        let output = self
            .tools
            .toolchain
            .cargo()
            .current_dir(Self::root())
            .args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
            .args(["--package", package, "--bin", name])
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        ensure!(output.status.success(), "cannot build {package}:{name} (see above)");
        executable(&output.stdout, name).with_context(|| format!("cargo built no {package}:{name}"))
    }
}

/// The path of the program `name` in cargo's messages, one JSON object a line.
fn executable(messages: &[u8], name: &str) -> Option<PathBuf> {
    let messages =
        messages.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == name);
    programs.find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

/// The path of the library of the package `name` in cargo's messages.
fn library(messages: &[u8], name: &str) -> Option<PathBuf> {
    let target = name.replace('-', "_");
    let messages =
        messages.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut libraries = messages.filter(|message| message["target"]["name"] == target.as_str());
    libraries.find_map(|message| Some(PathBuf::from(message["filenames"][0].as_str()?)))
}

/// Replaces the file at once, so that a run that goes on beside this one sees the old or the new one, and never a half.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_added_extension(format!("{}.tmp", std::process::id()));
    fs::write(&draft, bytes)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = br#"{"reason":"compiler-artifact","target":{"name":"abi"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"control-loop"},"executable":"/t/control-loop"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executable(messages, "control-loop"), Some("/t/control-loop".into()));
        assert_eq!(executable(messages, "abi"), None);
    }
}
