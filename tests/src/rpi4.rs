//! The Raspberry Pi 4: the image of `virt`, all cores, the RTOS with its loop, console input, the virtual platform.

use anyhow::{Result, ensure};
use qemu::{Gic, HYPERVISOR, Step};

use crate::Test;
use crate::checks;
use crate::lab::{Lab, Setup, send, until};

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for icount in [false, true] {
        let test = |what: &str| format!("rpi4_{what}{}", if icount { "_icount" } else { "" });
        tests.push(Test::new(test("rtos"), move |lab, name| rtos(lab, name, icount)));
        tests.push(Test::new(test("platform"), move |lab, name| platform(lab, name, icount)));
    }
    tests
}

/// The test guest's checks with a vCPU for each core.
fn platform(lab: &Lab<'_>, name: &str, icount: bool) -> Result<()> {
    checks::platform(lab.setup(name, checks::CHECKS_TOML)?.rpi4(lab)?.icount(icount))
}

fn rtos(lab: &Lab<'_>, name: &str, icount: bool) -> Result<()> {
    let setup: Setup = lab.setup(name, "machines/rtos.toml")?.icount(icount);
    let rpi4 = setup.clone().rpi4(lab)?.run(script()?)?;
    let virt = setup.log("virt.log").gic(Gic::V2).run(script()?)?;
    ensure!(rpi4.command_line.contains("raspi4b"), "not the Raspberry Pi 4: {}", rpi4.command_line);
    ensure!(rpi4.image_sha256()? == virt.image_sha256()?, "the boards need different images");
    Ok(())
}

fn script() -> Result<Vec<Step>> {
    Ok(vec![
        until(HYPERVISOR, "^4 CPUs")?,
        until("control", "misses=")?,
        send("control", "output"),
        until("control", "^output=")?,
        send("control", "stats"),
        until("control", "^period=1000us .*misses=")?,
    ])
}
