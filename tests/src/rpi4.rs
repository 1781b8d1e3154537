//! The Raspberry Pi 4: the image of `virt`, all cores, the RTOS with its loop, console input.

use anyhow::{Result, ensure};
use qemu::{Gic, HYPERVISOR, Step};

use crate::Test;
use crate::lab::{Lab, Setup, send, until};

pub fn tests() -> Vec<Test> {
    [false, true]
        .map(|icount| {
            let name = if icount { "rpi4_rtos_icount" } else { "rpi4_rtos" };
            Test::new(name, move |lab, name| rtos(lab, name, icount))
        })
        .into()
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
