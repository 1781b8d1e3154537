use vgic::Version;

use super::*;
use crate::state::pstate;
use crate::testing::{DTB, ENTRY, Guest, Mock, RAM, config};

#[test]
fn a_vcpu_starts_as_psci_says() {
    let guest = Guest::v3();
    let state = &guest.state;
    assert_eq!((state.pc, state.gprs[0]), (ENTRY, DTB));
    assert_eq!(state.gprs[1..], [0; 30]);
    assert_eq!(state.pstate, pstate::EL1H | pstate::DAIF);
    assert_eq!(state.sys.sctlr, 0x30d0_0800);
    assert_eq!(state.sys.mpidr, 1 << 31);
    assert_eq!(guest.vm.lifecycle.lock().power.first(), Some(&VcpuPower::On));
    assert_eq!(guest.vm.lifecycle.lock().power.get(1), Some(&VcpuPower::Off));
    assert_eq!(guest.vm.lifecycle.lock().power.get(2), None);
    assert_eq!(guest.host.set(|m| m.started.clone()), [0]);
}

#[test]
fn affinities_are_those_of_qemu_virt() {
    let vm = Vm::new(config(18, Version::V3)).unwrap();
    assert_eq!(vm.vcpus[17].state.lock().sys.mpidr, 1 << 31 | 0x101);
    assert_eq!(vm.vcpu_of(0x101), Some(17));
    for unknown in [0x10, 0x102, 1 << 31, 1 << 32, u64::MAX] {
        assert_eq!(vm.vcpu_of(unknown), None);
    }
}

#[test]
fn only_what_is_on_runs() {
    let host = Mock::new();
    let vm = Vm::new(config(2, Version::V3)).unwrap();
    let mut state = VcpuState::default();
    assert_eq!(vm.phase(), Phase::Loading);
    assert!(!vm.prepare(0, &mut state, &host));
    assert!(vm.boot(Entry { pc: ENTRY, context: DTB }, &mut vm.new_gic().unwrap(), &host));
    assert!(vm.prepare(0, &mut state, &host));
    assert!(!vm.prepare(1, &mut state, &host));
    assert!(!vm.prepare(7, &mut state, &host));
    state.pc = 0x1234;
    assert!(vm.prepare(0, &mut state, &host));
    assert_eq!(state.pc, 0x1234, "it starts once");
    assert!(vm.stop(Power::Off));
    assert!(!vm.prepare(0, &mut state, &host));
}

#[test]
fn a_reboot_starts_again_with_reset_devices() {
    let mut guest = Guest::v3();
    guest.store(0x0900_0030, 0x301);
    guest.store(0x0800_0000, 3);
    guest.vm.console_input(b"typed early", &guest.host);
    assert!(guest.vm.stop(Power::Reset));
    assert!(guest.vm.settle(Power::Reset));
    assert!(guest.vm.boot(
        Entry { pc: ENTRY + 4, context: 7 },
        &mut guest.vm.new_gic().unwrap(),
        &guest.host
    ));
    assert!(guest.vm.prepare(0, &mut guest.state, &guest.host));
    assert_eq!((guest.state.pc, guest.state.gprs[0]), (ENTRY + 4, 7));
    assert_eq!(guest.load(0x0900_0030), 0x300);
    assert_eq!(guest.load(0x0800_0000) & 3, 0);
    assert_eq!(guest.load(0x0900_0000), u64::from(b't'), "its sender holds the credit for what was typed");
}

#[test]
fn one_of_those_who_stop_a_vm_sees_to_it() {
    let guest = Guest::v3();
    assert!(guest.vm.stop(Power::Reset));
    assert!(!guest.vm.stop(Power::Reset));
    assert_eq!(guest.vm.phase(), Phase::Stopping(Power::Reset));
    assert!(!guest.vm.stop(Power::Off), "an end wins over a reset, but the vCPUs are leaving already");
    assert!(!guest.vm.stop(Power::Reset));
    assert_eq!(guest.vm.phase(), Phase::Stopping(Power::Off));
    assert!(!guest.vm.boot(Entry { pc: ENTRY, context: DTB }, &mut guest.vm.new_gic().unwrap(), &guest.host));
    assert!(!guest.vm.settle(Power::Reset), "it is not a reset any more");
    assert!(guest.vm.settle(Power::Off));
    assert!(!guest.vm.stop(Power::Reset), "what has stopped for good stays so");
    assert!(!guest.vm.settle(Power::Off));
    assert_eq!(guest.vm.phase(), Phase::Stopped);
}

#[test]
fn a_stop_during_the_load_is_not_lost() {
    let (host, entry) = (Mock::new(), Entry { pc: ENTRY, context: DTB });
    let vm = Vm::new(config(2, Version::V3)).unwrap();
    assert!(vm.stop(Power::Reset));
    assert!(
        !vm.boot(entry, &mut vm.new_gic().unwrap(), &host),
        "the load that was under way ends in nothing"
    );
    assert!(vm.settle(Power::Reset));
    assert_eq!(vm.phase(), Phase::Loading);
    assert!(vm.stop(Power::Off));
    assert!(!vm.boot(entry, &mut vm.new_gic().unwrap(), &host));
    assert!(vm.settle(Power::Off));
    assert!(!vm.boot(entry, &mut vm.new_gic().unwrap(), &host));
    assert_eq!(vm.lifecycle.lock().power.first(), Some(&VcpuPower::Off));
    assert_eq!(host.set(|m| m.started.clone()), []);
}

#[test]
fn bad_configurations_are_refused() {
    assert_eq!(Vm::new(config(9, Version::V2)).err(), Some(BadVm::Gic));
    let overlap = bus::UART.start..RAM;
    let bad = Config { ram: overlap.clone(), ..config(1, Version::V3) };
    assert_eq!(Vm::new(bad).err(), Some(BadVm::Map(BadMap { region: overlap })));
}
