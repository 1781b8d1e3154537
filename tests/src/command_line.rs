//! `cargo xtask` as a user without a terminal has it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use sha2::{Digest, Sha256};

use crate::{Lab, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("command_line_run", run),
        Test::new("command_line_timeout", timeout),
        Test::new("command_line_panic", panic),
        Test::new("command_line_bad_machine_files", bad_machine_files),
    ]
}

/// The line that the project promises, on the default machine.
fn run(lab: &Lab<'_>, _: &str) -> Result<()> {
    let output = lab.xtask(&[
        "run",
        "--timeout",
        "120",
        "--until",
        "linux:~ #",
        "--send",
        r"linux:nproc\n",
        "--until",
        "linux:^2$",
        "--until",
        "control:misses=",
    ])?;
    ensure!(output.status.success(), "{}\n{}", output.status, everything(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let sha256: String =
        Sha256::digest(fs::read(&lab.image)?).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(stdout.contains(&format!("mobivmm image sha256={sha256}")), "another EL2 image:\n{stdout}");
    let prefix = Regex::new(r"^(mobivmm|linux|control) \| ")?;
    let first = stdout.lines().find(|line| prefix.is_match(line)).unwrap_or_default();
    ensure!(first.starts_with("mobivmm | MobiVMM "), "the first line is not the version: {first}");
    let consoles = stdout.lines().skip_while(|line| !prefix.is_match(line));
    if let Some(line) = consoles.clone().find(|line| !prefix.is_match(line)) {
        bail!("a line without the name of its console: {line}");
    }
    for start in ["mobivmm | ", "linux | ", "control | "] {
        ensure!(
            consoles.clone().any(|line| line.starts_with(start)),
            "no line begins with {start:?}:\n{stdout}"
        );
    }
    Ok(())
}

/// A run that does not get what it waits for says so last.
fn timeout(lab: &Lab<'_>, _: &str) -> Result<()> {
    let output =
        lab.xtask(&["run", "machines/rtos.toml", "--timeout", "3", "--until", "control:never printed"])?;
    ensure!(output.status.code() == Some(1), "{}\n{}", output.status, everything(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().context("nothing was said")?;
    ensure!(
        last.contains("timed out") && last.contains("control") && last.contains("never printed"),
        "{stderr}"
    );
    Ok(())
}

/// A panic of EL2 ends the run with a backtrace in words, and is the reason. It comes from a device tree that is another machine's:
/// there are no redistributors where it says.
fn panic(lab: &Lab<'_>, name: &str) -> Result<()> {
    let dtb = lab.files.join(name).with_added_extension("dtb");
    let dtb = dtb.to_str().context("the path of the checkout is not UTF-8")?;
    let machine = format!("virt,virtualization=on,gic-version=3,dumpdtb={dtb}");
    let qemu = Command::new(&lab.qemu)
        .args(["-M", &machine, "-cpu", "cortex-a72", "-smp", "4", "-m", "1G", "-display", "none"])
        .output()
        .context("cannot start QEMU")?;
    ensure!(qemu.status.success(), "{}\n{}", qemu.status, everything(&qemu));
    pack(Path::new(dtb))?;

    let output = lab.xtask(&[
        "run",
        "machines/rtos.toml",
        "--gic",
        "2",
        "--until",
        "control:misses=",
        "--",
        "-dtb",
        dtb,
    ])?;
    ensure!(output.status.code() == Some(1), "{}\n{}", output.status, everything(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let frame = Regex::new(
        r"(?m)^mobivmm \|   #[0-9]+ 0x[0-9a-f]+ .*gicv3::.* \(boards/drivers/src/gicv3\.rs:[0-9]+\)",
    )?;
    ensure!(frame.is_match(&stdout), "no frame in the GICv3 driver:\n{stdout}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    ensure!(last.starts_with("error: EL2 panicked: PANIC cpu 0: synchronous exception"), "{stderr}");
    Ok(())
}

/// Cuts off what QEMU leaves free at the end of a device tree: off_dt_strings and size_dt_strings say where that begins, totalsize is
/// to say the same (Devicetree Specification 0.4, section 5.2).
fn pack(dtb: &Path) -> Result<()> {
    let mut bytes = fs::read(dtb)?;
    let word = |at| bytes.get(at..at + 4).and_then(|word| Some(u32::from_be_bytes(word.try_into().ok()?)));
    let end = word(12).zip(word(32)).context("no device tree")?;
    let end = end.0 + end.1;
    bytes.truncate(end as usize);
    bytes[4..8].copy_from_slice(&end.to_be_bytes());
    Ok(fs::write(dtb, bytes)?)
}

/// A machine file that is wrong is refused with file, line, key and reason, before anything is started.
fn bad_machine_files(lab: &Lab<'_>, name: &str) -> Result<()> {
    let vm = |name: &str, more: &str| {
        format!("[[vm]]\nname = \"{name}\"\nkernel = \"rtos-guest:control-loop\"\n{more}\n")
    };
    let memory = "memory = \"16MiB\"";
    let identity = |base: &str| format!("memory = {{ size = \"16MiB\", base = {base}, identity = true }}");
    let linux = "[[vm]]\nname = \"a\"\nkernel = \"linux-guest:Image\"\nmemory = \"16MiB\"\n";
    let missing = "[[vm]]\nname = \"a\"\nkernel = \"no-such.elf\"\nmemory = \"16MiB\"\n";
    let overlap = [vm("a", &identity("0x5000_0000")), vm("b", &identity("0x5080_0000"))].concat();
    let cases = [
        (vm("a", &format!("{memory}\nvcpu = 2")), 7, "vm[a].vcpu: unknown key"),
        (missing.into(), 5, "vm[a].kernel: "),
        (overlap, 10, "vm[b].memory"),
        (linux.into(), 6, "vm[a].memory: 16MiB are too little"),
    ];
    for (vms, line, expected) in cases {
        let file = lab.files.join(name).with_added_extension("toml");
        fs::write(&file, format!("[machine]\nname = \"bad\"\n{vms}"))?;
        let path = file.to_str().context("the path of the checkout is not UTF-8")?;
        let output = lab.xtask(&["run", path, "--until", "a:never"])?;
        ensure!(output.status.code() == Some(1), "{}\n{}", output.status, everything(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().last().unwrap_or_default();
        let expected = format!("{path}:{line}: {expected}");
        ensure!(last.contains(&expected), "expected {expected:?}, not:\n{stderr}");
    }
    Ok(())
}

fn everything(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}
