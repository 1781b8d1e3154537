//! Sections of EL2 in which interrupts are masked, and the switches among them.

use std::collections::HashMap;

use crate::recording::{Event, Kind};

/// A CPU executed EL2 with interrupts masked, and did not look for one: from an exception, or from masking them, to the return, to
/// unmasking them, to a look at ISR_EL1, or to waiting for one. What comes after the look or the wait is a section of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// The CPU.
    pub cpu: u8,
    /// Instructions of that CPU.
    pub length: u64,
    /// Instructions of the whole visit to EL2, from the exception or the end of the wait, if the section ends it.
    pub visit: Option<u64>,
    /// The visit ends with the entry of another VM than ran there last: the decision and all that a switch takes are in it.
    pub switch: bool,
    /// Instructions from the look before the last decision on, or of the whole visit if it has fewer looks.
    pub decided: u64,
}

/// The looks from the one before the last decision to the guest's entry, at most: before the decision, after it, when the old vCPU's
/// registers are saved, when the new one's are loaded, after its interrupts, and before its list registers are brought up to date.
const LOOKS: usize = 6;

/// Makes sections of events. Before its first return to a guest a CPU boots: that counts as none.
#[derive(Debug, Default)]
pub struct Sections {
    cpus: HashMap<u8, Cpu>,
}

#[derive(Debug, Default)]
struct Cpu {
    /// The CPU's instructions at EL2 before the visit that it is in.
    since: Option<u64>,
    /// Those before its last looks in this visit, the latest first.
    looks: [Option<u64>; LOOKS],
    /// The VM that was entered last.
    vmid: Option<u16>,
}

impl Sections {
    /// Takes an event; returns the section that it ends.
    pub fn observe(&mut self, event: &Event) -> Option<Section> {
        let cpu = self.cpus.entry(event.cpu).or_default();
        // The instruction itself is part of it.
        let end = event.own + 1;
        let (since, before) = match event.kind {
            // Where they are masked already nothing begins.
            Kind::Entry { .. } | Kind::Mask { masked: true } => {
                cpu.since.get_or_insert(event.own);
                return None;
            }
            Kind::Look => {
                let since = cpu.looks[0].or(cpu.since)?;
                cpu.looks.rotate_right(1);
                cpu.looks[0] = Some(end);
                let length = end - since;
                let section = Section { cpu: event.cpu, length, visit: None, switch: false, decided: 0 };
                return cpu.vmid.map(|_| section);
            }
            Kind::Mask { masked: false } => (cpu.since.take(), cpu.vmid),
            Kind::Wait => (cpu.since.replace(end), cpu.vmid),
            Kind::Return { spsr, .. } => match event.kind.entered() {
                Some(vmid) => (cpu.since.take(), cpu.vmid.replace(vmid)),
                // To EL2 itself, where they may stay masked.
                None if spsr & 0x80 == 0 => (cpu.since.take(), cpu.vmid),
                None => return None,
            },
            _ => return None,
        };
        let switch = event.kind.entered().is_some_and(|vmid| before != Some(vmid));
        let looks = core::mem::take(&mut cpu.looks);
        before.and(since).map(|since| Section {
            cpu: event.cpu,
            length: end - looks[0].unwrap_or(since),
            visit: Some(end - since),
            switch,
            decided: end - looks[LOOKS - 1].unwrap_or(since),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(events: &[(u64, Kind)]) -> Vec<(u64, bool)> {
        let mut sections = Sections::default();
        let event = |&(own, kind): &(u64, Kind)| Event { cpu: 0, total: 2 * own, el2: own, own, kind };
        events
            .iter()
            .filter_map(|at| sections.observe(&event(at)))
            .map(|section| (section.length, section.switch))
            .collect()
    }

    const ENTRY: Kind = Kind::Entry { vector: 0x480, esr: 0, far: 0, hpfar: 0 };

    fn enter(vmid: u16) -> Kind {
        Kind::Return { vmid, spsr: 0x3c5, elr: 0, vbar: 0 }
    }

    #[test]
    fn a_visit_is_a_section_and_a_switch_if_another_vm_follows() {
        let events = [(0, Kind::Mask { masked: true }), (500, enter(1)), (500, ENTRY), (509, enter(1))];
        assert_eq!(sections(&events), [(10, false)], "what comes before the first guest is boot");
        let events = [(0, enter(1)), (1, ENTRY), (10, enter(2)), (11, ENTRY), (30, enter(2))];
        assert_eq!(sections(&events), [(10, true), (20, false)]);
    }

    #[test]
    fn a_look_divides_sections_and_not_visits() {
        let mut sections = Sections::default();
        let events =
            [(0, enter(1)), (1, ENTRY), (5, Kind::Look), (8, Kind::Look), (20, enter(2)), (21, ENTRY)];
        let event = |(own, kind)| Event { cpu: 0, total: 2 * own, el2: own, own, kind };
        let found = events.into_iter().filter_map(|at| sections.observe(&event(at)));
        let found: Vec<_> = found.map(|section| (section.length, section.visit, section.switch)).collect();
        assert_eq!(found, [(5, None, false), (3, None, false), (12, Some(20), true)]);
    }

    #[test]
    fn a_wait_and_an_open_section_of_a_work_item_divide_a_visit() {
        let events = [(0, enter(1)), (1, ENTRY), (20, Kind::Wait), (50, enter(2))];
        assert_eq!(sections(&events), [(20, false), (30, true)]);
        let el2 = |masked: u64| Kind::Return { vmid: 1, spsr: masked | 9, elr: 0, vbar: 0 };
        let events = [
            (0, enter(1)),
            (1, ENTRY),
            (5, el2(0x80)),
            (10, el2(0)),
            (100, Kind::Mask { masked: true }),
            (101, ENTRY),
            (109, Kind::Mask { masked: false }),
        ];
        assert_eq!(sections(&events), [(10, false), (10, false)]);
    }
}
