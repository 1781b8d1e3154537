use std::sync::atomic::{AtomicUsize, Ordering};

use vgic::Version;

use super::*;
use crate::exit::Trap;
use crate::testing::{ENTRY, Guest, RAM, RAM_SIZE};

#[test]
fn both_conduits_say_version_1_1() {
    let mut guest = Guest::v3();
    assert_eq!(guest.hvc(&[VERSION.into()]), 0x1_0001);
    guest.state.gprs[0] = VERSION.into();
    assert_eq!(guest.trap(Trap::Smc { imm: 0 }), None);
    assert_eq!((guest.state.gprs[0], guest.state.pc), (0x1_0001, ENTRY + 4));
}

#[test]
fn features_tell_what_there_is() {
    let mut guest = Guest::v3();
    let mut features = |function: u32| guest.hvc(&[FEATURES.into(), function.into()]);
    for there in [VERSION, CPU_SUSPEND_64, CPU_OFF, CPU_ON, AFFINITY_INFO_64, SYSTEM_RESET2, SMCCC_VERSION] {
        assert_eq!(features(there), 0, "{there:#x}");
    }
    // CPU_OFF in 64 bits, MIGRATE, MIGRATE_INFO_UP_CPU, CPU_FREEZE, CPU_DEFAULT_SUSPEND, NODE_HW_STATE, SYSTEM_SUSPEND.
    for not in [0xc400_0002, 0x8400_0005, 0x8400_0007, 0x8400_000b, 0x8400_000c, 0x8400_000d, 0x8400_000e] {
        assert_eq!(features(not), NOT_SUPPORTED, "{not:#x}");
        assert_eq!(guest_call(not), NOT_SUPPORTED, "{not:#x}");
    }
    assert_eq!(Guest::v3().hvc(&[MIGRATE_INFO_TYPE.into()]), 2);
}

fn guest_call(function: u32) -> i64 {
    Guest::v3().hvc(&[function.into()])
}

#[test]
fn a_vcpu_is_started_once() {
    let mut guest = Guest::v3();
    let on = [CPU_ON_64.into(), 1, ENTRY + 0x100, 0x1234_5678_9abc_def0];
    assert_eq!(guest.hvc(&[AFFINITY_INFO.into(), 1, 0]), AFFINITY_OFF);
    assert_eq!(guest.hvc(&on), SUCCESS);
    assert_eq!(guest.host.set(|m| m.started.clone()), [0, 1]);
    assert_eq!(guest.hvc(&on), ON_PENDING);
    assert_eq!(guest.hvc(&[AFFINITY_INFO.into(), 1, 0]), AFFINITY_ON_PENDING);

    let mut second = guest.vm.vcpus[1].state.lock().clone();
    second.gprs.fill(7);
    assert!(guest.vm.prepare(1, &mut second, &guest.host));
    assert_eq!((second.pc, second.gprs[0], second.gprs[1]), (ENTRY + 0x100, 0x1234_5678_9abc_def0, 0));
    assert_eq!(second.sys.mpidr, 1 << 31 | 1);
    assert_eq!(guest.hvc(&on), ALREADY_ON);
    assert_eq!(guest.hvc(&[AFFINITY_INFO.into(), 1, 0]), AFFINITY_ON);
    assert_eq!(guest.hvc(&[CPU_ON_64.into(), 0, ENTRY, 0]), ALREADY_ON, "itself");
    assert_eq!(guest.host.set(|m| m.started.len()), 2);
}

#[test]
fn the_32_bit_call_looks_at_32_bits() {
    let mut guest = Guest::v3();
    let junk = 0xdead_beef << 32;
    assert_eq!(guest.hvc(&[junk | u64::from(CPU_ON), junk | 1, junk | ENTRY, junk | 5]), SUCCESS);
    assert_eq!(
        guest.vm.lifecycle.lock().power.get(1),
        Some(&VcpuPower::OnPending(Entry { pc: ENTRY, context: 5 }))
    );
}

#[test]
fn who_and_where_must_exist() {
    let mut guest = Guest::new(4, Version::V3);
    for target in [4, 0x100, 1 << 31 | 1, 1 << 32 | 1, u64::MAX] {
        assert_eq!(guest.hvc(&[CPU_ON_64.into(), target, ENTRY, 0]), INVALID_PARAMETERS, "{target:#x}");
    }
    for entry in [0x0900_0000, RAM - 4, RAM + RAM_SIZE, ENTRY + 1, u64::MAX] {
        assert_eq!(guest.hvc(&[CPU_ON_64.into(), 1, entry, 0]), INVALID_ADDRESS, "{entry:#x}");
    }
    assert_eq!(guest.vm.lifecycle.lock().power.get(1), Some(&VcpuPower::Off));
}

#[test]
fn two_at_once_start_a_vcpu_once() {
    for _ in 0..200 {
        let guest = Guest::new(4, Version::V3);
        let (started, pending) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for caller in 0..2 {
                let (guest, started, pending) = (&guest, &started, &pending);
                scope.spawn(move || {
                    let mut state = VcpuState::default();
                    state.gprs[..4].copy_from_slice(&[CPU_ON_64.into(), 3, ENTRY, caller as u64]);
                    call(&Context { vm: &guest.vm, vcpu: caller, host: &guest.host }, &mut state, CPU_ON_64);
                    match state.gprs[0] as i64 {
                        SUCCESS => started.fetch_add(1, Ordering::Relaxed),
                        ON_PENDING => pending.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                });
            }
        });
        assert_eq!((started.into_inner(), pending.into_inner()), (1, 1));
    }
}

#[test]
fn off_and_on_again() {
    let mut guest = Guest::v3();
    assert_eq!(guest.hvc(&[CPU_ON.into(), 1, ENTRY, 0]), SUCCESS);
    let mut second = VcpuState::default();
    assert!(guest.vm.prepare(1, &mut second, &guest.host));
    second.gprs[0] = CPU_OFF.into();
    call(&Context { vm: &guest.vm, vcpu: 1, host: &guest.host }, &mut second, CPU_OFF);
    assert_eq!(guest.host.set(|m| m.next.take()), Some(Next::Stop));
    assert!(!guest.vm.prepare(1, &mut second, &guest.host));
    assert_eq!(guest.hvc(&[AFFINITY_INFO.into(), 1, 0]), AFFINITY_OFF);
    assert_eq!(guest.hvc(&[CPU_ON.into(), 1, ENTRY + 4, 9]), SUCCESS);
    assert!(guest.vm.prepare(1, &mut second, &guest.host));
    assert_eq!((second.pc, second.gprs[0]), (ENTRY + 4, 9));
}

#[test]
fn without_any_vcpu_the_vm_is_off() {
    let mut guest = Guest::v3();
    assert_eq!(guest.hvc_on(0, &[CPU_OFF.into()]).1, Some(Next::Power));
    assert_eq!(guest.vm.phase(), Phase::Stopping(Power::Off));
    // But not while one is about to start.
    let mut guest = Guest::v3();
    assert_eq!(guest.hvc(&[CPU_ON.into(), 1, ENTRY, 0]), SUCCESS);
    assert_eq!(guest.hvc_on(0, &[CPU_OFF.into()]).1, Some(Next::Stop));
}

#[test]
fn system_off_ends_this_vm_alone_and_once() {
    let (mut guest, other) = (Guest::v3(), Guest::v3());
    assert_eq!(guest.hvc_on(1, &[SYSTEM_OFF.into()]).1, Some(Next::Power));
    assert_eq!(guest.hvc_on(0, &[SYSTEM_RESET.into()]).1, Some(Next::Stop), "the first one decided");
    assert_eq!(guest.vm.phase(), Phase::Stopping(Power::Off));
    assert_eq!(other.vm.phase(), Phase::Running);
    assert_eq!(guest.hvc(&[CPU_ON.into(), 1, ENTRY, 0]), DENIED, "nobody starts while it stops");
}

#[test]
fn resets() {
    assert_eq!(Guest::v3().hvc_on(0, &[SYSTEM_RESET.into()]).1, Some(Next::Power));
    assert_eq!(Guest::v3().hvc_on(0, &[SYSTEM_RESET2_64.into(), 0, 0]).1, Some(Next::Power));
    assert_eq!(Guest::v3().hvc(&[SYSTEM_RESET2.into(), 1]), INVALID_PARAMETERS);
    assert_eq!(Guest::v3().hvc(&[SYSTEM_RESET2.into(), 1 << 31]), NOT_SUPPORTED);
}

#[test]
fn suspend_is_a_wait() {
    for power_state in [0, 1 << 16, 0x0301_ffff] {
        let (result, next) = Guest::v3().hvc_on(0, &[CPU_SUSPEND_64.into(), power_state, ENTRY, 0]);
        assert_eq!((result, next), (SUCCESS, Some(Next::Wait)));
    }
    assert_eq!(Guest::v3().hvc(&[CPU_SUSPEND.into(), 1 << 26]), INVALID_PARAMETERS);
}

#[test]
fn affinity_levels_are_nodes() {
    let mut guest = Guest::new(18, Version::V3);
    assert_eq!(guest.hvc(&[AFFINITY_INFO_64.into(), 0x01, 1]), AFFINITY_ON, "vCPU 0 is in that cluster");
    assert_eq!(guest.hvc(&[AFFINITY_INFO_64.into(), 0x100, 1]), AFFINITY_OFF);
    assert_eq!(guest.hvc(&[CPU_ON_64.into(), 0x101, ENTRY, 0]), SUCCESS);
    assert_eq!(guest.hvc(&[AFFINITY_INFO_64.into(), 0x100, 1]), AFFINITY_ON_PENDING);
    assert_eq!(guest.hvc(&[AFFINITY_INFO_64.into(), 0, 3]), AFFINITY_ON);
    for (target, level) in [(0x200, 0), (0x200, 1), (0, 4), (1 << 31, 0)] {
        assert_eq!(guest.hvc(&[AFFINITY_INFO_64.into(), target, level]), INVALID_PARAMETERS);
    }
}
