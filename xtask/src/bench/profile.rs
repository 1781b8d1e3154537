//! `--profile`: where the instructions of a path go.

use std::collections::BTreeMap;

use anyhow::Result;
use qemu::{Class, Code, Kind, Profile, Steps};

use super::measure::{BEGIN, END, INTERRUPT, from_guest, to_guest};
use super::rows::Row;
use super::scenario::Stage;

/// Functions that are shown.
const SHOWN: usize = 60;

/// Prints what one event of a row's first scenario costs at EL2 on average, by function and kind of instruction. An event of a row that
/// is about switches is a visit to EL2 that leaves one VM and enters another; that of one from reset is all up to the first guest.
pub fn print(stage: &Stage, row: &Row) -> Result<()> {
    let Some(mut scenario) = (row.scenarios)(row.n[0].min(100)).into_iter().next() else { return Ok(()) };
    // Where the image is, is seen at its vectors.
    scenario.marks_only = false;
    let steps = if row.from_reset { Steps::All } else { Steps::Marked };
    let taken = stage.run(&scenario, steps)?;
    let mut code = Code::load(&stage.hypervisor().elf, &stage.hypervisor().image)?;
    let (mut profile, mut events, mut begun) = (Profile::default(), 0u64, false);
    let whole_visits = row.steps || row.from_reset;
    let (mut visit, mut entered) = (Vec::new(), None);
    for event in taken.events()? {
        match event?.kind {
            Kind::Mark { id: BEGIN, .. } => {
                begun = true;
                events += u64::from(!whole_visits);
            }
            Kind::Mark { id: END | INTERRUPT, .. } => begun = false,
            Kind::Entry { vector, .. } if from_guest(vector) => visit.clear(),
            Kind::Return { vmid, spsr, vbar, .. } if to_guest(spsr) => {
                code.set_vbar(vbar);
                let before = entered.replace(vmid);
                let counts =
                    if row.from_reset { before.is_none() } else { before.is_some_and(|vm| vm != vmid) };
                if whole_visits && counts && !visit.is_empty() {
                    events += 1;
                    visit.drain(..).for_each(|(pc, count)| profile.add(&mut code, pc, count));
                }
            }
            Kind::Steps { pc, count } if whole_visits => visit.push((pc, count)),
            Kind::Steps { pc, count } if begun => profile.add(&mut code, pc, count),
            _ => {}
        }
    }
    println!("{}: instructions at EL2 for each of {events} events of {}", row.name, scenario.name);
    print!("{:>9}", "all");
    Class::ALL.iter().for_each(|class| print!(" {:>8}", class.name()));
    println!();
    let mut sum = BTreeMap::new();
    for (_, mix) in profile.functions() {
        mix.iter().for_each(|(class, count)| *sum.entry(*class).or_default() += count);
    }
    print_mix(&sum, events, "in all");
    for (name, mix) in profile.functions().into_iter().take(SHOWN) {
        print_mix(mix, events, name);
    }
    Ok(())
}

fn print_mix(mix: &BTreeMap<Class, u64>, events: u64, name: &str) {
    let each = |count: u64| count as f64 / events.max(1) as f64;
    print!("{:9.1}", each(mix.values().sum()));
    for class in Class::ALL {
        match mix.get(&class) {
            Some(count) => print!(" {:8.1}", each(*count)),
            None => print!(" {:>8}", ""),
        }
    }
    println!("  {name}");
}
