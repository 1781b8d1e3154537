//! What EL2 does with a bundle or a board that is not what a VM needs: it refuses that VM, by name, and runs the others.
//!
//! (What the host refuses already is in `command_line.rs`.)

use std::fs;
use std::ops::Range;

use anyhow::{Context, Result, anyhow};
use bundle::Bundle;
use machines::Machine;
use qemu::{HYPERVISOR, Step};

use crate::Test;
use crate::lab::{Lab, Setup, until};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("bad_input_truncated_bundle", truncated),
        Test::new("bad_input_flipped_bit", flipped_bit),
        Test::new("bad_input_garbage_for_a_bundle", garbage),
        Test::new("bad_input_overlapping_memory", overlapping_memory),
        Test::new("bad_input_memory_in_use", memory_in_use),
        Test::new("bad_input_too_little_ram", too_little_ram),
    ]
}

/// The VM that must run whatever happens.
const GOOD: &str = "[[vm]]\nname = \"good\"\nkernel = \"rtos-guest:control-loop\"\nmemory = \"16MiB\"\n";
/// The one that must not, in the cases below.
const BAD: &str = "[[vm]]\nname = \"bad\"\nkernel = \"test-guest:checks\"\nmemory = \"16MiB\"\n";

/// A guest of 28 bytes that prints a line and sleeps, at whatever address.
const HELLO: [u32; 7] = [
    0xd2a1_2001, // mov x1, #0x09000000
    0x5280_0820, // mov w0, #'A'
    0xb900_0020, // str w0, [x1]
    0x5280_0140, // mov w0, #'\n'
    0xb900_0020, // str w0, [x1]
    0xd503_207f, // wfi
    0x17ff_ffff, // b   .-4
];

/// A machine of these VMs, which may name `hello.bin`.
fn machine(lab: &Lab<'_>, name: &str, vms: &[&str]) -> Result<Machine> {
    fs::write(lab.files.join("hello.bin"), HELLO.map(u32::to_le_bytes).concat())?;
    let text = format!("[machine]\nname = \"bad-input\"\n{}", vms.concat());
    Ok(Machine::parse(&lab.files.join(name).with_added_extension("toml"), &text)?)
}

/// A VM with identity memory that says `A`.
fn identity(name: &str, base: u64) -> String {
    let entry = base + 0x8_0000;
    format!(
        "[[vm]]\nname = \"{name}\"\nkernel = {{ raw = \"hello.bin\", load = {entry}, entry = {entry} }}\n\
         memory = {{ size = \"16MiB\", base = {base}, identity = true }}\n"
    )
}

fn setup(lab: &Lab<'_>, name: &str, vms: &[&str]) -> Result<Setup> {
    lab.setup_of(name, &machine(lab, name, vms)?)
}

fn good_runs() -> Result<Step> {
    until("good", "misses=")
}

/// The file ends in the middle of the last image.
fn truncated(lab: &Lab<'_>, name: &str) -> Result<()> {
    let setup = setup(lab, name, &[GOOD, BAD])?.corrupt(|bytes| {
        let image = last_image(bytes)?;
        bytes.truncate(image.start + image.len() / 2);
        Ok(())
    })?;
    let report = setup.run(vec![until(HYPERVISOR, "refused")?, good_runs()?])?;
    report.expect_log(&["vm bad: refused: ", "kernel-2: data-size: ", "the bundle ends before it"])
}

/// One bit of a kernel is not what it was.
fn flipped_bit(lab: &Lab<'_>, name: &str) -> Result<()> {
    let setup = setup(lab, name, &[GOOD, BAD])?.corrupt(|bytes| {
        let image = last_image(bytes)?;
        bytes[image.start + image.len() / 3] ^= 0x10;
        Ok(())
    })?;
    let report = setup.run(vec![until(HYPERVISOR, "^vm bad: not started")?, good_runs()?])?;
    report.expect_log(&["vm bad: ", "kernel", "SHA-256"])
}

/// No machine without a bundle: EL2 says so and ends, with a status that is not 0.
fn garbage(lab: &Lab<'_>, name: &str) -> Result<()> {
    let setup = setup(lab, name, &[GOOD])?.corrupt(|bytes| {
        bytes[..64].fill(0x5a);
        Ok(())
    })?;
    setup.run_to_status(vec![until(HYPERVISOR, "^bundle refused: ")?], 1)?.expect_log(&["no VM"])
}

/// Two identity VMs want the same memory. The host refuses that, so the bundle is made behind its back.
fn overlapping_memory(lab: &Lab<'_>, name: &str) -> Result<()> {
    let mut machine = machine(lab, name, &[&identity("a", 0x7000_0000), &identity("b", 0x7100_0000), GOOD])?;
    machine.vms[1].memory.base = 0x7080_0000;
    let setup = lab.setup_of(name, &machine)?;
    let report = setup.run(vec![until("a", "^A$")?, good_runs()?])?;
    report.expect_log(&["vm b: refused: memory: "])
}

/// An identity VM wants memory that EL2 itself, its device tree and its bundle lie in.
fn memory_in_use(lab: &Lab<'_>, name: &str) -> Result<()> {
    let setup = setup(lab, name, &[&identity("bad", 0x4000_0000), GOOD])?;
    setup.run(vec![good_runs()?])?.expect_log(&["vm bad: refused: memory: "])
}

/// The board has less RAM than a VM wants.
fn too_little_ram(lab: &Lab<'_>, name: &str) -> Result<()> {
    let setup = setup(lab, name, &[&BAD.replace("16MiB", "1GiB"), GOOD])?.memory(256);
    setup.run(vec![good_runs()?])?.expect_log(&["vm bad: refused: memory: "])
}

/// Where the kernel of the last VM lies in a bundle.
fn last_image(bytes: &[u8]) -> Result<Range<usize>> {
    let bundle = Bundle::parse(bytes, bytes.len() as u64).map_err(|error| anyhow!("{error}"))?;
    let vm = bundle.vms().last().context("no VM")?.map_err(|error| anyhow!("{error}"))?;
    let start = vm.kernel.image.offset as usize;
    Ok(start..start + vm.kernel.image.size as usize)
}
