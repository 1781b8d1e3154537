//! A short run of the fuzzer, which follows the code's branches, on what a guest can do to EL2's pure crates.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{Lab, Test};

/// Has the compiler count the branches taken, for libFuzzer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table";
/// Strings of bytes that are tried: a fixed number from a fixed seed, so that two runs do the same.
const RUNS: u32 = 20_000;

pub fn tests() -> Vec<Test> {
    ["exits", "faces"].map(|target| Test::new(format!("fuzz_{target}"), fuzz)).into()
}

fn fuzz(lab: &Lab<'_>, name: &str) -> Result<()> {
    if Command::new("c++").arg("--version").output().is_err() {
        println!("no C++ compiler for libFuzzer: left to the random strings of `cargo test`");
        return Ok(());
    }
    let target = name.strip_prefix("fuzz_").unwrap_or(name);
    let build = lab.files.with_file_name("fuzz");
    let host = host()?;
    // Naming the host as the target keeps build scripts and macros out of it.
    succeed(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "build",
                "--quiet",
                "--package",
                "mobivmm-fuzz",
                "--features",
                "libfuzzer",
                "--bin",
                target,
            ])
            .args(["--target", &host, "--target-dir"])
            .arg(&build)
            .env("RUSTFLAGS", COVERAGE)
            .current_dir(&lab.root),
    )?;
    let artifacts = format!("-artifact_prefix={}.", lab.files.join(name).display());
    succeed(
        Command::new(Path::new(&build).join(host).join("debug").join(target))
            .args([&format!("-runs={RUNS}"), "-seed=1", "-max_len=2000", &artifacts])
            .current_dir(&lab.files),
    )
}

/// The triple of the machine that this runs on.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.into())
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}
