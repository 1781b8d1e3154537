//! Running other programs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

/// How much of a failed program's messages is passed on.
const LINES: usize = 12;

/// Runs a program to its end and returns what it wrote to its standard output.
///
/// # Errors
/// It cannot be started, or fails; the message has the end of what it wrote to its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let program = PathBuf::from(command.get_program());
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if Path::new(command.get_program()).is_absolute() => {
            anyhow!("there is no {}", command.get_program().display())
        }
        io::ErrorKind::NotFound => anyhow!("{program} is not installed"),
        _ => anyhow!(error).context(format!("cannot start {}", command.get_program().display())),
    })?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        let messages: Vec<&str> = messages.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = messages[messages.len().saturating_sub(LINES)..].join("\n    ");
        bail!("{program} failed ({}):\n    {tail}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} wrote something that is not UTF-8"))
}

/// Where a program lies that is on PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| is_program(file))
}

#[cfg(unix)]
fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(file: &Path) -> bool {
    file.is_file()
}
