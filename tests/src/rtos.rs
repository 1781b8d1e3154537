//! mobi-rtos: its applications on a bare machine without us, as its users build them, and in VMs that talk to each other.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use qemu::Gic;
use regex::Regex;

use crate::Test;
use crate::lab::{Lab, until};

const TARGET: &str = "aarch64-unknown-none-softfloat";
/// A line that comes only if something is wrong: what is waited for comes long before.
const LINES: usize = 100;

pub fn tests() -> Vec<Test> {
    let mut tests = vec![Test::new("rtos_template", template)];
    for gic in [Gic::V3, Gic::V2] {
        tests.push(Test::new(format!("rtos_bare_gic{gic}"), move |lab, _| bare(lab, gic)));
        tests.push(Test::new(format!("rtos_channel_gic{gic}"), move |lab, name| channel(lab, name, gic)));
    }
    tests
}

/// The programs of our VMs on QEMU's machine, without a hypervisor.
fn bare(lab: &Lab<'_>, gic: Gic) -> Result<()> {
    let program = |name| (lab.resolver)("rtos-guest", name);
    boot(lab, &program("control-loop")?, gic, &["^period=1000us n=2000 .* misses=0$"])?;
    boot(lab, &program("two-tasks")?, gic, &["^samples 100 to 199: average 149, "])?;
    let both = ["^consumer: 200 samples, 0 lost$", "^producer: 200 samples acknowledged$"];
    boot(lab, &program("producer-consumer")?, gic, &both)
}

/// Samples go from VM to VM, and pins back.
fn channel(lab: &Lab<'_>, name: &str, gic: Gic) -> Result<()> {
    let script = vec![
        until("consumer", "^consumer: 300 samples, 0 lost$")?,
        until("producer", "^producer: 300 samples acknowledged$")?,
    ];
    lab.setup(name, "machines/producer-consumer.toml")?.gic(gic).icount(true).run(script).map(drop)
}

/// The template, copied out of the tree, builds and runs; with a task that needs too much stack the end names it.
fn template(lab: &Lab<'_>, name: &str) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("mobivmm-{name}-{}", std::process::id()));
    let result = template_in(lab, &directory);
    fs::remove_dir_all(&directory)?;
    result
}

fn template_in(lab: &Lab<'_>, directory: &Path) -> Result<()> {
    let library = lab.root.join("rtos-guest");
    let library_path = library.to_str().context("the path of the checkout is not UTF-8")?;
    fs::create_dir_all(directory.join("src"))?;
    for file in ["Cargo.toml", "build.rs", "src/main.rs"] {
        let text = fs::read_to_string(library.join("template").join(file))?;
        fs::write(directory.join(file), text.replace("path = \"..\"", &format!("path = '{library_path}'")))?;
    }
    // The same versions as in the workspace, which are there already.
    fs::copy(lab.root.join("Cargo.lock"), directory.join("Cargo.lock"))?;
    boot(lab, &build(lab, directory)?, Gic::V3, &["^blink 0$", "^blink 1$"])?;

    let main = directory.join("src/main.rs");
    let deep = "println!(\"{}\", deep(1 << 20));\n}\n\nfn deep(n: u64) -> u64 {\n    \
                let squares = [n * n; 16];\n    if n == 0 { 0 } else { deep(n - 1) + core::hint::black_box(squares)[3] }\n}";
    let text = fs::read_to_string(&main)?;
    let (head, _) = text.split_once("let mut release").context("another template")?;
    fs::write(&main, format!("{}    {deep}\n", head.replace("use mobi_rtos::time::{self, ExtU64};\n", "")))?;
    boot(lab, &build(lab, directory)?, Gic::V3, &["^mobi-rtos: stack overflow in task \"blink\""])
}

/// Builds the package in `directory`; returns its program.
fn build(lab: &Lab<'_>, directory: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = directory.join("target");
    let mut command = Command::new(cargo);
    command.current_dir(directory).env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS");
    if let Some((_, rustc)) = lab.environment.iter().find(|(name, _)| *name == "MOBIVMM_RUSTC") {
        let bin = Path::new(rustc).parent().unwrap_or(Path::new(""));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin.to_path_buf()).chain(std::env::split_paths(&path));
        command.env("RUSTC", rustc).env("PATH", std::env::join_paths(paths)?);
    }
    let output = command.args(["build", "--release", "--offline", "--target", TARGET]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(target.join(TARGET).join("release/my-application"))
}

/// Boots `program` on QEMU's `virt` with one CPU, without us, until lines have matched, in this order.
fn boot(lab: &Lab<'_>, program: &Path, gic: Gic, expected: &[&str]) -> Result<()> {
    let machine = format!("virt,gic-version={gic}");
    let arguments =
        ["-cpu", "cortex-a72", "-m", "64", "-nographic", "-nic", "none", "-icount", "shift=0,sleep=off"];
    let mut child = Command::new(&lab.qemu)
        .args(["-M", &machine])
        .args(arguments)
        .args([OsStr::new("-kernel"), program.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")?;
    let lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
    let result = expect(lines.map_while(Result::ok).take(LINES), expected);
    child.kill()?;
    child.wait()?;
    result.with_context(|| program.display().to_string())
}

fn expect(mut lines: impl Iterator<Item = String>, expected: &[&str]) -> Result<()> {
    let mut seen = Vec::new();
    for pattern in expected {
        let regex = Regex::new(pattern)?;
        loop {
            let Some(line) = lines.next() else { bail!("no line matches {pattern}:\n{}", seen.join("\n")) };
            seen.push(line);
            if seen.last().is_some_and(|line| regex.is_match(line.trim_end())) {
                break;
            }
        }
    }
    Ok(())
}
