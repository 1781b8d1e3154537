//! Whether the toolchain for the bare-metal target serves somebody who has it on PATH (`cargo xtask setup --print-env`).

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{Counts, step};
use crate::setup::{Tools, output};

/// Checks what `filter` selects. Without `tools` it fails.
pub fn run(tools: Option<&Tools>, filter: &str) -> Counts {
    let mut counts = Counts::default();
    let name = "toolchain_runs_doctests";
    if name.contains(filter) {
        counts.count(step(name, || doctest(tools.context("there are no tools for the bare-metal target")?)));
    }
    counts
}

/// For each documentation test, rustdoc starts the rustc that it finds by itself.
fn doctest(tools: &Tools) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    fs::create_dir_all(directory.join("src"))?;
    let manifest = "[package]\nname = \"doctest\"\nedition = \"2024\"\n[lib]\n[workspace]\n";
    fs::write(directory.join("Cargo.toml"), manifest)?;
    fs::write(directory.join("src/lib.rs"), "//! ```\n//! assert_eq!(1 + 1, 2);\n//! ```\n")?;
    let mut cargo = tools.toolchain.cargo();
    cargo.args(["test", "--quiet", "--doc", "--offline"]).current_dir(directory);
    let said = output(cargo.env("CARGO_TARGET_DIR", directory.join("target")))?;
    ensure!(said.contains("test result: ok. 1 passed;"), "{said}");
    Ok(())
}
