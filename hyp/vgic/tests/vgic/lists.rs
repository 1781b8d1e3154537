//! List registers: single stories.

use crate::machine::{DEVICE, Machine, TIMER};
use crate::model::*;
use mobivmm_vgic::{Control, CpuMask, Groups, Sgi, VcpuSet, Version};

/// Four list registers, everything enabled and sent to vCPU 0.
fn machine(version: Version, vcpus: usize) -> Machine {
    let mut machine = Machine::new(version, vcpus, 96, 4);
    machine.set_groups(3);
    for vcpu in 0..vcpus {
        machine.write(vcpu, vcpu, 0, SET_ENABLE, 4, !0);
    }
    for intid in 32..128 {
        machine.set_target(intid, 0);
        machine.set_bit(0, SET_ENABLE, intid);
    }
    machine.settle();
    machine
}

/// A CPU interface that lets everything through.
const OPEN: CpuMask = CpuMask { pmr: 0xff, groups: Groups { group0: true, group1: true } };

fn both(story: impl Fn(Machine)) {
    for version in [Version::V2, Version::V3] {
        story(machine(version, 2));
    }
}

/// What `vcpu` acknowledges and ends, one after the other.
fn take_all(machine: &mut Machine, vcpu: usize) -> Vec<u16> {
    let mut taken = vec![];
    while let Some(ack) = machine.ack(vcpu) {
        taken.push(ack.intid);
        machine.eoi(vcpu, ack.intid);
        assert!(taken.len() < 1000);
    }
    taken
}

#[test]
fn the_timer_needs_nobody_at_its_end() {
    both(|mut machine| {
        machine.timers[0].line = true;
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(TIMER));
        machine.timers[0].line = false;
        machine.cpus[0].eoi(TIMER);
        assert!(!machine.cpus[0].maintenance());
        assert!(!machine.vgic.needs_enter(0));
        machine.settle();
        assert!(!machine.timers[0].active);
        machine.timers[0].line = true;
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(TIMER), "and it fires again");
    });
}

#[test]
fn a_timer_handler_that_is_preempted_and_ends_elsewhere() {
    both(|mut machine| {
        machine.timers[0].line = true;
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(TIMER));
        machine.timers[0].line = false;
        assert!(machine.timers[0].active);
        machine.unload(0);
        assert!(!machine.timers[0].active, "the old CPU's timer is free");
        assert!(machine.vgic.physical_active(0, TIMER));
        machine.load(0);
        assert!(machine.timers[0].active, "the new CPU's is not");
        machine.eoi(0, TIMER);
        assert!(!machine.timers[0].active);
        machine.unload(0);
        assert!(!machine.vgic.physical_active(0, TIMER));
        machine.load(0);
        machine.timers[0].line = true;
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(TIMER));
    });
}

#[test]
fn clearing_the_active_state_deactivates_the_physical_interrupt() {
    both(|mut machine| {
        machine.device.line = true;
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(DEVICE));
        machine.device.line = false;
        machine.set_bit(1, CLEAR_ACTIVE, DEVICE);
        machine.settle();
        assert!(!machine.device.active);
        assert!(!machine.cpus[0].listed().contains(&DEVICE));

        machine.timers[0].line = true;
        assert_eq!(machine.ack(0), None, "the device's priority still runs");
        machine.eoi(0, DEVICE);
        machine.timers[0].line = false;
        machine.set_bit(0, CLEAR_PENDING, TIMER);
        machine.settle();
        assert!(!machine.timers[0].active);
        assert_eq!(machine.ack(0), None);
    });
}

#[test]
fn a_level_line_comes_again_until_it_falls() {
    both(|mut machine| {
        machine.line(0, 33, true);
        for _ in 0..3 {
            assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(33));
            machine.cpus[0].eoi(33);
            assert!(machine.cpus[0].maintenance(), "an asserted line is looked at again");
            machine.settle();
        }
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(33));
        machine.line(0, 33, false);
        machine.settle();
        machine.cpus[0].eoi(33);
        assert!(!machine.cpus[0].maintenance(), "a line that fell is not");
        assert_eq!(machine.ack(0), None);
    });
}

#[test]
fn a_level_line_that_falls_takes_the_interrupt_away() {
    both(|mut machine| {
        machine.line(0, 33, true);
        machine.settle();
        assert_eq!(machine.cpus[0].listed(), [33]);
        machine.line(0, 33, false);
        machine.settle();
        assert!(machine.cpus[0].is_clear());
    });
}

#[test]
fn an_edge_while_active_is_a_second_interrupt_without_maintenance() {
    both(|mut machine| {
        machine.pulse(0, 50);
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(50));
        machine.pulse(0, 50);
        machine.pulse(0, 50);
        assert_eq!(machine.ack(0), None, "not while it is active");
        machine.cpus[0].eoi(50);
        assert!(!machine.cpus[0].maintenance());
        assert_eq!(take_all(&mut machine, 0), [50]);
    });
}

#[test]
fn sixty_four_spis_pass_through_four_list_registers_in_order() {
    both(|mut machine| {
        for intid in 48..112u16 {
            machine.set_priority(0, intid, (intid as u8 % 16) << 4);
        }
        for intid in 48..112 {
            machine.pulse(0, intid);
        }
        machine.settle();
        assert_eq!(machine.cpus[0].listed().len(), 1, "not more at a time");
        assert_eq!(machine.cpus[0].control, Control { pending_spilled: true, active_spilled: false });
        let taken = take_all(&mut machine, 0);
        let mut expected: Vec<u16> = (48..112).collect();
        expected.sort_by_key(|intid| intid % 16);
        assert_eq!(taken, expected);
        assert_eq!(machine.cpus[0].control, Control::default());
    });
}

#[test]
fn preemption_goes_deeper_than_the_list_registers() {
    both(|mut machine| {
        for (depth, intid) in (60..76u16).enumerate() {
            machine.set_priority(0, intid, 0xf0 - (depth as u8) * 8);
            machine.pulse(0, intid);
            assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(intid));
        }
        assert!(machine.cpus[0].control.active_spilled);
        for intid in (60..76).rev() {
            machine.eoi(0, intid);
        }
        assert!(machine.cpus[0].is_clear());
        assert_eq!(machine.cpus[0].control, Control::default());
        machine.fold();
        assert_eq!([1, 2].map(|w| machine.read(0, 32, SET_ACTIVE + w * 4, 4)), [0, 0], "none is active");
    });
}

#[test]
fn the_only_active_interrupt_is_listed_again_when_the_vcpu_is() {
    both(|mut machine| {
        machine.pulse(0, 60);
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(60));
        machine.unload(0);
        machine.load(0);
        assert_eq!(machine.cpus[0].listed(), [60]);
        machine.cpus[0].eoi(60);
        assert!(!machine.cpus[0].maintenance(), "its end needs nobody");
    });
}

#[test]
fn spilled_active_interrupts_end_by_dir_in_any_order() {
    both(|mut machine| {
        machine.cpus[0].split_eoi = true;
        let intids = [60, 61, 62, 63, 64, 65];
        for intid in intids {
            machine.pulse(0, intid);
            assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(intid));
            machine.eoi(0, intid);
        }
        assert!(machine.cpus[0].control.active_spilled);
        for intid in [65, 60, 63, 61, 64, 62] {
            machine.pulse(0, intid);
            assert_eq!(machine.ack(0), None, "still active");
            machine.dir(0, intid);
            assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(intid));
            machine.eoi(0, intid);
            machine.dir(0, intid);
        }
        assert!(machine.cpus[0].is_clear());
    });
}

#[test]
fn active_interrupts_give_way_to_what_waits_alone() {
    both(|mut machine| {
        let priority = |intid: u16| 0xf0 - (intid as u8 - 60) * 8;
        for intid in 60..66 {
            machine.set_priority(0, intid, priority(intid));
        }
        for intid in 60..63 {
            machine.pulse(0, intid);
            assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(intid));
        }
        for intid in [64, 63] {
            machine.pulse(0, intid);
            machine.settle();
        }
        assert_eq!(machine.cpus[0].listed(), [60, 61, 62, 64]);
        assert_eq!(machine.cpus[0].control, Control { pending_spilled: true, active_spilled: false });
        machine.set_bit(0, CLEAR_ENABLE, 63);
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(64));
        assert_eq!(machine.cpus[0].listed(), [60, 61, 62, 64], "nothing waits any more");
        assert_eq!(machine.cpus[0].control, Control::default());
        machine.pulse(0, 65);
        machine.settle();
        assert_eq!(machine.cpus[0].listed(), [65, 61, 62, 64], "the least urgent one did");
        assert_eq!(take_all(&mut machine, 0), [65]);
        for intid in [64, 62, 61, 60] {
            machine.eoi(0, intid);
        }
        assert!(machine.cpus[0].is_clear());
    });
}

#[test]
fn an_exit_before_the_maintenance_interrupt_forgets_nothing() {
    both(|mut machine| {
        for intid in 60..63 {
            machine.pulse(0, intid);
        }
        machine.settle();
        assert_eq!(machine.cpus[0].listed(), [60]);
        assert_eq!(machine.cpus[0].ack().map(|ack| ack.intid), Some(60));
        machine.cpus[0].eoi(60);
        machine.unload(0);
        assert!(machine.vgic.deliverable(0, OPEN));
        machine.load(0);
        assert_eq!(take_all(&mut machine, 0), [61, 62]);
    });
}

#[test]
fn the_only_one_that_would_wait_is_listed() {
    both(|mut machine| {
        machine.pulse(0, 60);
        machine.pulse(0, 100);
        machine.settle();
        assert_eq!(machine.cpus[0].listed(), [60, 100]);
        assert_eq!(machine.cpus[0].control, Control::default());
        assert_eq!(take_all(&mut machine, 0), [60, 100]);
    });
}

#[test]
fn a_more_urgent_interrupt_displaces_listed_ones() {
    both(|mut machine| {
        for intid in 60..64 {
            machine.set_priority(0, intid, 0x80);
            machine.pulse(0, intid);
        }
        machine.settle();
        machine.pulse(0, 100);
        machine.settle();
        assert!(machine.cpus[0].listed().contains(&100));
        assert_eq!(take_all(&mut machine, 0), [100, 60, 61, 62, 63]);
    });
}

#[test]
fn a_retargeted_interrupt_moves_to_the_other_vcpu() {
    both(|mut machine| {
        machine.pulse(0, 70);
        machine.settle();
        machine.set_target(70, 1);
        assert_eq!(machine.kicked, VcpuSet::one(0), "whoever has it must give it up first");
        machine.settle();
        assert!(machine.cpus[0].is_clear());
        assert_eq!(take_all(&mut machine, 1), [70]);
    });
}

#[test]
fn an_interrupt_retargeted_while_active_waits_for_its_end() {
    both(|mut machine| {
        machine.pulse(0, 70);
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(70));
        machine.set_target(70, 1);
        machine.pulse(0, 70);
        assert_eq!(machine.ack(1), None);
        machine.eoi(0, 70);
        assert_eq!(take_all(&mut machine, 1), [70]);
        assert_eq!(machine.ack(0), None);
    });
}

#[test]
fn disabling_and_reprioritising_reach_the_list_register() {
    both(|mut machine| {
        machine.pulse(0, 70);
        machine.pulse(0, 71);
        machine.settle();
        machine.set_bit(1, CLEAR_ENABLE, 70);
        machine.settle();
        assert_eq!(machine.cpus[0].listed(), [71]);
        machine.set_bit(1, SET_ENABLE, 70);
        machine.set_priority(1, 70, 0x80);
        assert_eq!(take_all(&mut machine, 0), [71, 70]);
        machine.pulse(0, 70);
        machine.settle();
        machine.set_groups(0);
        machine.settle();
        assert!(machine.cpus[0].is_clear());
    });
}

#[test]
fn gicv2_sgis_from_two_senders_are_two_interrupts() {
    let mut machine = machine(Version::V2, 3);
    for from in [2, 1] {
        machine.send(Sgi::from_sgir(1 << 16 | 9, from, 3));
    }
    for from in [1, 2] {
        let ack = machine.ack(0).unwrap();
        assert_eq!((ack.intid, ack.source), (9, from));
        machine.eoi(0, 9);
    }
    assert_eq!(machine.ack(0), None);
}

/// vCPU 0 has taken and ended `intid`, whose list register is still its own.
fn end_once(machine: &mut Machine, intid: u16) {
    machine.pulse(0, intid);
    assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(intid));
    machine.eoi(0, intid);
}

#[test]
fn an_interrupt_that_comes_again_is_not_all_that_comes() {
    both(|mut machine| {
        end_once(&mut machine, 60);
        machine.pulse(0, 61);
        machine.pulse(0, 60);
        assert_eq!(take_all(&mut machine, 0), [60, 61]);
        end_once(&mut machine, 60);
        machine.pulse(0, 60);
        machine.set_priority(0, 60, 0x80);
        machine.pulse(0, 60);
        assert_eq!(machine.ack(0).map(|ack| ack.priority), Some(0x80));
        machine.eoi(0, 60);
        machine.line(0, 60, true);
        machine.pulse(0, 60);
        machine.settle();
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(60));
        machine.cpus[0].eoi(60);
        assert!(machine.cpus[0].maintenance(), "the line is still asserted");
    });
}

#[test]
fn a_mapped_interrupt_that_the_guest_made_pending_fires_later() {
    both(|mut machine| {
        machine.set_bit(0, SET_PENDING, TIMER);
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(TIMER));
        assert!(!machine.timers[0].active);
        machine.eoi(0, TIMER);
        for _ in 0..2 {
            machine.timers[0].line = true;
            assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(TIMER));
            machine.timers[0].line = false;
            assert!(machine.timers[0].active);
            machine.eoi(0, TIMER);
            assert!(!machine.timers[0].active);
        }
    });
}

#[test]
fn folding_loses_nothing() {
    both(|mut machine| {
        machine.pulse(0, 60);
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(60));
        machine.pulse(0, 60);
        machine.pulse(0, 61);
        machine.line(0, 33, true);
        machine.fold();
        assert_eq!(machine.read(0, 32, SET_PENDING + 4, 4), 1 << 28 | 1 << 29 | 1 << 1);
        assert_eq!(machine.read(0, 32, SET_ACTIVE + 4, 4), 1 << 28);
        machine.eoi(0, 60);
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(33));
        machine.line(0, 33, false);
        machine.settle();
        machine.eoi(0, 33);
        assert_eq!(take_all(&mut machine, 0), [60, 61]);
    });
}

#[test]
fn a_vcpu_reads_what_its_list_registers_have() {
    both(|mut machine| {
        machine.line(0, 33, true);
        machine.pulse(0, 34);
        let read = |machine: &mut Machine| [SET_PENDING, SET_ACTIVE].map(|r| machine.read_own(0, 32, r + 4));
        machine.settle();
        assert_eq!(read(&mut machine), [0b110, 0]);
        assert_eq!(machine.cpus[0].ack().map(|ack| ack.intid), Some(33));
        assert_eq!(read(&mut machine), [0b110, 0b010]);
        machine.cpus[0].eoi(33);
        assert!(machine.cpus[0].maintenance());
        assert_eq!(read(&mut machine), [0b110, 0], "the line is still asserted");
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(33));
        machine.line(0, 33, false);
        machine.settle();
        machine.eoi(0, 33);
        assert_eq!(take_all(&mut machine, 0), [34]);
        assert_eq!(read(&mut machine), [0, 0]);
    });
}

#[test]
fn what_a_read_saw_is_not_what_others_read_for_ever() {
    both(|mut machine| {
        machine.pulse(0, 34);
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(34));
        assert_eq!(machine.read_own(0, 32, SET_ACTIVE + 4), 0b100);
        machine.settle();
        machine.cpus[0].eoi(34);
        assert!(!machine.vgic.is_quiet(0, &machine.cpus[0]), "it does not sleep like this");
        machine.pulse(0, 34);
        machine.settle();
        assert_eq!(machine.read(1, 32, SET_ACTIVE + 4, 4), 0, "nor goes on like this");
        assert_eq!(machine.read(1, 32, SET_PENDING + 4, 4), 0b100);
    });
}

#[test]
fn a_waiting_vcpu_wakes_for_what_its_interface_lets_through() {
    both(|mut machine| {
        machine.set_priority(0, 60, 0x80);
        machine.unload(0);
        assert!(!machine.vgic.deliverable(0, OPEN));
        machine.pulse(0, 60);
        assert!(machine.vgic.deliverable(0, OPEN));
        assert!(!machine.vgic.deliverable(1, OPEN));
        assert!(!machine.vgic.deliverable(0, CpuMask { pmr: 0x80, ..OPEN }));
        assert!(machine.vgic.deliverable(0, CpuMask { pmr: 0x88, ..OPEN }));
        let group1 = Groups { group0: false, group1: true };
        assert!(!machine.vgic.deliverable(0, CpuMask { groups: group1, ..OPEN }));
        machine.set_bit(0, GROUP, 60);
        assert!(machine.vgic.deliverable(0, CpuMask { groups: group1, ..OPEN }));
        machine.set_bit(0, CLEAR_ENABLE, 60);
        assert!(!machine.vgic.deliverable(0, OPEN));
    });
}

#[test]
fn lines_of_sgis_and_of_nothing_are_ignored() {
    both(|mut machine| {
        let before = machine.vgic.clone();
        for intid in [0, 15, 128, 1019, 1020, u16::MAX] {
            machine.line(0, intid, true);
            machine.pulse(0, intid);
            machine.vgic.map_hw(0, intid, 99);
        }
        assert_eq!(machine.vgic, before);
        assert!(machine.kicked.is_empty());
    });
}

#[test]
fn an_interrupt_that_moves_for_the_sake_of_another_is_told_to_its_new_vcpu() {
    let mut machine = machine(Version::V2, 2);
    let effects = machine.vgic.set_online(0, false);
    machine.owe(1, effects);
    let effects = machine.vgic.gicd_write(0, 0x800 + 70, 1, 0b11);
    machine.owe(0, effects);
    machine.pulse(0, 70);
    assert_eq!(machine.ack(1).map(|ack| ack.intid), Some(70));
    let effects = machine.vgic.set_online(0, true);
    machine.owe(0, effects);
    machine.eoi(1, 70);
    machine.pulse(0, 70);
    machine.unload(1);
    machine.settle();
    machine.set_target(71, 1);
    assert_eq!(take_all(&mut machine, 0), [70]);
}

#[test]
fn a_vcpu_is_quiet_once_it_has_ended_everything() {
    both(|mut machine| {
        machine.timers[0].line = true;
        machine.settle();
        assert!(!machine.vgic.is_quiet(0, &machine.cpus[0]), "pending");
        assert_eq!(machine.ack(0).map(|ack| ack.intid), Some(TIMER));
        machine.timers[0].line = false;
        assert!(!machine.vgic.is_quiet(0, &machine.cpus[0]), "active");
        machine.cpus[0].eoi(TIMER);
        assert!(machine.vgic.is_quiet(0, &machine.cpus[0]));
        assert!(!machine.vgic.deliverable(0, OPEN));
        machine.pulse(0, 60);
        assert!(!machine.vgic.is_quiet(0, &machine.cpus[0]), "another one");
        assert_eq!(take_all(&mut machine, 0), [60]);
        assert!(machine.vgic.is_quiet(0, &machine.cpus[0]));
    });
}

#[test]
fn an_edge_while_active_that_was_looked_at_leaves_nothing_behind() {
    for version in [Version::V2, Version::V3] {
        let mut machine = machine(version, 1);
        machine.pulse(0, 50);
        assert_eq!(machine.ack(0).unwrap().intid, 50);
        machine.pulse(0, 50);
        machine.settle();
        // Its list register is pending and active now, and then pending.
        machine.eoi(0, 50);
        assert_ne!(machine.read_own(0, 32, SET_PENDING + 4) & 1 << 18, 0);
        for _ in 0..2 {
            assert_eq!(machine.ack(0).expect("it is pending alone").intid, 50);
            machine.eoi(0, 50);
            machine.pulse(0, 50);
        }
    }
}
