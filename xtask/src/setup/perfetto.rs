//! Perfetto's published schema, as a Python package, to check by it what `run --trace` writes. Only the tests of that need it, so nothing
//! else brings it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::SetupOptions;
use super::cache::{Cache, digest, remove};
use super::process::output;
use super::report::{note, step};

/// What pip is to install, with hashes.
const REQUIREMENTS: &str = include_str!("../../perfetto.txt");
const ADVICE: &str =
    "it takes python3 with venv (Debian: `apt install python3-venv`), and the Python package index";

/// The directory with the packages, for PYTHONPATH; brings them if they are not in the cache.
///
/// # Errors
/// They could not be had, and what they take.
pub fn perfetto(options: &SetupOptions) -> Result<PathBuf> {
    let cache = Cache::locate(options.cache.as_deref())?;
    let name = format!("perfetto-{}", &digest(REQUIREMENTS.as_bytes())[..16]);
    if let Some(part) = cache.find(&name) {
        return Ok(part);
    }
    let _lock = cache.lock()?;
    cache.drop_damaged(false)?;
    // While this one waited for the lock, another setup may have brought it.
    if let Some(part) = cache.find(&name) {
        return Ok(part);
    }
    note(format_args!("Perfetto's schema is missing: bringing it into {}", cache.root().display()));
    bring(&cache, &name).with_context(|| format!("cannot bring Perfetto's schema; {ADVICE}"))
}

/// Installs into a directory of its own, by the pip of an environment that goes again: the packages run with any Python.
fn bring(cache: &Cache, name: &str) -> Result<PathBuf> {
    let (scratch, whole) = (cache.scratch("perfetto")?, cache.scratch("perfetto-python")?);
    let (environment, requirements) = (whole.join("venv"), whole.join("requirements.txt"));
    fs::write(&requirements, REQUIREMENTS)
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    step("installing Perfetto's schema", || {
        output(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        let mut pip = Command::new(environment.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-compile",
        ]);
        pip.args(["--require-hashes", "--only-binary", ":all:"]);
        output(pip.arg("--target").arg(&scratch).arg("--requirement").arg(&requirements))
    })?;
    remove(&whole)?;
    cache.publish(&scratch, name, &[])
}
