//! How much memory EL2 itself takes.

use anyhow::{Context, Result, ensure};
use machines::Machine;
use qemu::{HYPERVISOR, Step};
use regex::Regex;

use crate::Test;
use crate::lab::{Lab, until};

/// KiB, with four CPUs and four VMs; all that is not guest RAM or the bundle.
const LIMIT: u32 = 2048;

pub fn tests() -> Vec<Test> {
    vec![Test::new("footprint", footprint)]
}

fn footprint(lab: &Lab<'_>, name: &str) -> Result<()> {
    let vm = |n| {
        format!("[[vm]]\nname = \"vm{n}\"\nkernel = \"test-guest:checks\"\nvcpus = 2\nmemory = \"16MiB\"\n")
    };
    let text = format!("[machine]\nname = \"four\"\n{}", (1..=4).map(vm).collect::<String>());
    let machine = Machine::parse(&lab.files.join(name).with_added_extension("toml"), &text)?;
    let script =
        (1..=4).map(|n| until(&format!("vm{n}"), "^checks ready: ")).collect::<Result<Vec<Step>>>()?;
    let report = lab.setup_of(name, &machine)?.run(script)?;
    let log = report.outcome.console(HYPERVISOR);
    let found = Regex::new("(?m)^EL2: ([0-9]+) KiB of memory")?
        .captures(log)
        .context("no line about EL2's memory")?;
    let kib: u32 = found[1].parse()?;
    ensure!((256..=LIMIT).contains(&kib), "EL2 takes {kib} KiB of memory: more than {LIMIT}");
    Ok(())
}
