//! Format and lints. Code for the bare-metal target is not even compiled on the host, so it is looked at with that target's compiler.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Counts, step};
use crate::build::Builder;
use crate::setup::{TARGET, Toolchain, Tools};

/// The programs of the bare-metal target; clippy follows their dependencies in the workspace.
const BARE_METAL: [&str; 5] = ["mobivmm", "rtos-guest", "test-guest", "bench-guest", "kvm-runner"];

/// Checks what `filter` selects. Without `tools` there is no compiler for the bare-metal target, and its check fails.
pub fn run(tools: Option<&Tools>, filter: &str) -> Counts {
    let host = || Toolchain::default().cargo();
    let mut counts = Counts::default();
    let mut check = |name: &str, command: &dyn Fn() -> Result<Command>| {
        if name.contains(filter) {
            counts.count(step(name, || succeed(command()?)));
        }
    };
    check("lint_format", &|| {
        let mut cargo = host();
        cargo.args(["fmt", "--all", "--check"]);
        Ok(cargo)
    });
    check("lint_host", &|| {
        let mut cargo = host();
        cargo.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"]);
        Ok(cargo)
    });
    check("lint_bare_metal", &|| {
        let mut cargo = tools.context("there are no tools for the bare-metal target")?.toolchain.cargo();
        cargo.args(["clippy", "--quiet", "--target", TARGET]);
        cargo.args(BARE_METAL.iter().flat_map(|package| ["--package", package]));
        cargo.args(["--", "-Dwarnings"]);
        Ok(cargo)
    });
    counts
}

fn succeed(mut command: Command) -> Result<()> {
    let output =
        command.current_dir(Builder::root()).stdin(Stdio::null()).output().context("cannot start cargo")?;
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    ensure!(output.status.success(), "{said}");
    Ok(())
}
