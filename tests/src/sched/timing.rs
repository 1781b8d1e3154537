//! What admission believes of EL2's paths is what they take.

use anyhow::{Result, ensure};
use qemu::{Gic, Sections};

use super::scene::{MS, Scene, VIRT, Vm};
use crate::Test;
use crate::lab::{Lab, until};

pub fn tests() -> Vec<Test> {
    let timing = |cpus, gic| move |lab: &Lab<'_>, name: &str| timing(lab, name, cpus, gic);
    vec![
        Test::new("sched_timing_gic3_icount", timing(1, Gic::V3)),
        Test::new("sched_timing_gic2_icount", timing(1, Gic::V2)),
        Test::new("sched_timing_4_cpus_icount", timing(4, Gic::V3)),
    ]
}

/// The longest section with interrupts masked and the longest switch, from its decision on, are within the board's data, with as many vCPUs as there can be, of
/// which two have reservations and the others are storms of all kinds or have a great deal to do.
fn timing(lab: &Lab<'_>, name: &str, cpus: u32, gic: Gic) -> Result<()> {
    const END: u64 = 300 * MS;
    let mut vms = vec![Vm::new("clock", &format!("burn until={END}"))];
    for (n, period) in [(1, 1_000), (2, 300)] {
        let work = period * 50;
        let task = Vm::new(format!("task-{n}"), &format!("jobs n=1000 period={period}000 work={work}"));
        vms.push(task.schedule(format!("{{ budget = \"{}us\", period = \"{period}us\" }}", period / 10)));
    }
    let roles = ["everything", "timers", "ipis", "sgis", "hypercalls", "everything", "burn"];
    vms.extend(roles.iter().enumerate().map(|(n, role)| Vm::new(format!("storm-{n}"), role).vcpus(8)));
    vms.push(Vm::new("last", "timers").vcpus(5));
    let seen = Scene::new(lab, name, cpus, &vms)?.gic(gic).run(vec![until("clock", "^done")?])?;

    let (mut masked, mut switch, mut sections) = (0, 0, Sections::default());
    for event in seen.events()? {
        if let Some(section) = sections.observe(&event?) {
            masked = masked.max(section.length);
            switch = if section.switch { switch.max(section.decided) } else { switch };
        }
    }
    // Of several CPUs one has to wait for what another one holds until QEMU gives that its turn: a switch takes as long as that.
    ensure!(
        masked <= VIRT.irq_off_max && (switch <= VIRT.vm_switch || cpus > 1),
        "interrupts are masked for up to {masked} ns and a switch takes up to {switch} ns: more than {VIRT:?} (boards/virt)"
    );
    Ok(())
}
