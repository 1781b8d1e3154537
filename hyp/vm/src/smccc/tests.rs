use vgic::Version;

use super::*;
use crate::exit::Trap;
use crate::testing::{Guest, config};
use crate::vm::{Channel, Config};

const FUNCTION_OF_NOBODY: u64 = 0x8600_1234;

#[test]
fn registers_beyond_the_results_are_preserved() {
    let mut guest = Guest::v3();
    for (n, register) in guest.state.gprs.iter_mut().enumerate() {
        *register = 0x1000 + n as u64;
    }
    let before = guest.state.clone();
    for function in [VERSION.into(), ARCH_FEATURES.into(), PV_TIME_ST.into(), FUNCTION_OF_NOBODY] {
        guest.hvc(&[function]);
        assert_eq!(guest.state.gprs[1..], before.gprs[1..], "{function:#x}");
    }
    guest.hvc(&[vendor::CALL_UID.into()]);
    assert_eq!(guest.state.gprs[..4], vendor::UID.map(u64::from));
    assert_eq!(guest.state.gprs[4..], before.gprs[4..]);
    assert_eq!((guest.state.pc, guest.state.pstate), (before.pc, before.pstate));
}

#[test]
fn the_unknown_is_not_supported() {
    let mut guest = Guest::v3();
    // Nobody's call, TRNG_VERSION, a 32-bit vendor call, SDEI_VERSION, and zero.
    for function in [FUNCTION_OF_NOBODY, 0x8400_0050, 0x8600_0001, 0xc400_0020, 0] {
        assert_eq!(guest.hvc(&[function]), -1, "{function:#x}");
    }
    guest.state.gprs[0] = VERSION.into();
    assert_eq!(guest.trap(Trap::Hvc { imm: 1 }), None);
    assert_eq!(guest.state.gprs[0] as i64, -1);
}

#[test]
fn versions_and_features() {
    let mut guest = Guest::v3();
    assert_eq!(guest.hvc(&[VERSION.into()]), 0x1_0002);
    assert_eq!(guest.hvc(&[vendor::CALL_REVISION.into()]), vendor::REVISION_MAJOR.into());
    assert_eq!(guest.state.gprs[1], vendor::REVISION_MINOR.into());
    for workaround in [ARCH_WORKAROUND_1, ARCH_WORKAROUND_2, ARCH_WORKAROUND_3] {
        for (known, feature, call) in [(-1, -1, -1), (0, 0, 0), (1, 1, 0)] {
            guest.host.set(|m| m.workaround = known);
            assert_eq!(guest.hvc(&[ARCH_FEATURES.into(), workaround.into()]), feature);
            assert_eq!(guest.hvc(&[workaround.into()]), call);
        }
    }
    assert_eq!(guest.hvc(&[ARCH_FEATURES.into(), VERSION.into()]), 0);
    assert_eq!(guest.hvc(&[ARCH_FEATURES.into(), FUNCTION_OF_NOBODY]), -1);
}

#[test]
fn stolen_time_has_a_record_for_each_vcpu() {
    let mut guest = Guest::v3();
    assert_eq!(guest.hvc(&[ARCH_FEATURES.into(), PV_TIME_FEATURES.into()]), 0);
    assert_eq!(guest.hvc(&[PV_TIME_FEATURES.into(), PV_TIME_ST.into()]), 0);
    assert_eq!(guest.hvc(&[PV_TIME_FEATURES.into(), VERSION.into()]), -1);
    assert_eq!(guest.hvc(&[PV_TIME_ST.into()]), 0x090a_0000);
    assert_eq!(guest.hvc_on(1, &[PV_TIME_ST.into()]).0, 0x090a_0040);
    assert!(guest.vm.map.is_memory(0x090a_0040));
}

fn write(guest: &mut Guest, text: &[u8]) -> i64 {
    let mut bytes = [0; 48];
    bytes[..text.len()].copy_from_slice(text);
    let mut args = vec![u64::from(vendor::CONSOLE_WRITE), text.len() as u64];
    args.extend(bytes.chunks(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())));
    guest.hvc(&args)
}

#[test]
fn console_writes_take_what_there_is_room_for() {
    let mut guest = Guest::v3();
    let text = b"forty-eight bytes are the most that go at a time";
    assert_eq!(write(&mut guest, text), 48);
    assert_eq!(guest.host.set(|m| core::mem::take(&mut m.output)), text);
    assert_eq!(write(&mut guest, b""), 0);
    guest.host.set(|m| m.room = 5);
    assert_eq!(write(&mut guest, b"much too much"), 5);
    assert_eq!(write(&mut guest, b"much too much"), 0);
    assert_eq!(guest.host.set(|m| core::mem::take(&mut m.output)), b"much ");
    for length in [49, u64::MAX] {
        assert_eq!(guest.hvc(&[vendor::CONSOLE_WRITE.into(), length]), -3);
    }
}

#[test]
fn console_reads_return_and_give_credit() {
    let mut guest = Guest::v3();
    assert_eq!(guest.hvc(&[vendor::CONSOLE_READ.into()]), 0);
    guest.vm.console_input(b"0123456789abcdefghijklmnopq", &guest.host);
    assert_eq!(guest.hvc(&[vendor::CONSOLE_READ.into()]), 24);
    let bytes: Vec<u8> = guest.state.gprs[1..4].iter().flat_map(|register| register.to_le_bytes()).collect();
    assert_eq!(bytes, b"0123456789abcdefghijklmn");
    assert_eq!(guest.hvc(&[vendor::CONSOLE_READ.into()]), 3);
    assert_eq!(guest.state.gprs[1..4], [u64::from_le_bytes(*b"opq\0\0\0\0\0"), 0, 0]);
    assert_eq!(guest.host.set(|m| m.taken), 27);
}

#[test]
fn console_events_hold_the_line_while_they_last() {
    let mut guest = Guest::v3();
    assert_eq!(guest.hvc(&[vendor::CONSOLE_EVENTS.into(), 4]), -3);
    guest.vm.console_input(b"x", &guest.host);
    assert!(!guest.pending(33), "nobody asked");
    assert_eq!(guest.hvc(&[vendor::CONSOLE_EVENTS.into(), vendor::CONSOLE_EVENT_RX]), 0);
    assert!(guest.pending(33));
    guest.hvc(&[vendor::CONSOLE_READ.into()]);
    assert!(!guest.pending(33));

    guest.host.set(|m| m.room = 47);
    guest.hvc(&[vendor::CONSOLE_EVENTS.into(), vendor::CONSOLE_EVENT_TX]);
    assert!(!guest.pending(33));
    guest.host.set(|m| m.room = 48);
    guest.vm.console_ready(&guest.host);
    assert!(guest.pending(33));
    write(&mut guest, b"x");
    assert!(!guest.pending(33));
}

const RESERVATION: vendor::Reservation =
    vendor::Reservation { budget: 250_000, period: 1_000_000, deadline: 900_000 };

#[test]
fn reservations_are_told_and_changed_or_not() {
    let mut guest = Guest::v3();
    for function in [vendor::RESERVATION_GET, vendor::RESERVATION_LEFT, vendor::JOB_DONE] {
        assert_eq!(guest.hvc(&[function.into(), 0, 0]), -1, "without a reservation");
    }
    guest.vm.set_cntvoff(1000);
    guest.host.set(|m| {
        m.reservation = Some(RESERVATION);
        m.left = Some(vendor::Left { budget: 7, replenished: 5000 });
    });
    assert_eq!(guest.hvc(&[vendor::RESERVATION_GET.into()]), 0);
    assert_eq!(guest.state.gprs[1..4], [250_000, 1_000_000, 900_000]);
    assert_eq!(guest.hvc(&[vendor::RESERVATION_LEFT.into()]), 0);
    assert_eq!(guest.state.gprs[1..3], [7, 4000], "on the guest's counter");
    let wanted = vendor::Reservation { budget: 1, period: u64::MAX, deadline: 3 };
    let (_, next) = guest.hvc_on(0, &[vendor::RESERVATION_SET.into(), 1, u64::MAX, 3]);
    assert_eq!(next, Some(Next::Reserve(wanted)));
}

#[test]
fn the_end_of_a_job_may_be_a_wait() {
    let mut guest = Guest::v3();
    let wait = vendor::JOB_DONE_WAIT;
    assert_eq!(guest.hvc_on(0, &[vendor::JOB_DONE.into(), 5, wait]), (-1, None), "nobody to wait");
    guest.vm.set_cntvoff(1000);
    guest.host.set(|m| m.reservation = Some(RESERVATION));
    assert_eq!(guest.hvc_on(0, &[vendor::JOB_DONE.into(), 5, 0]), (0, None));
    assert_eq!(guest.host.set(|m| m.released), Some(1005), "on the physical counter");
    assert_eq!(guest.hvc_on(0, &[vendor::JOB_DONE.into(), u64::MAX, wait]), (0, Some(Next::Wait)));
    assert_eq!(guest.host.set(|m| m.released), Some(u64::MAX));
    assert_eq!(guest.hvc_on(0, &[vendor::JOB_DONE.into(), 5, 2]), (-3, None));
}

#[test]
fn a_bell_rings_at_the_other_end_only() {
    let channel = Channel { name: "samples".into(), end: 0 };
    let base = config(1, Version::V3);
    let gic = vgic::Config { spis: 96, ..base.gic };
    let mut guest = Guest::with(Config { channels: vec![channel; 2], gic, ..base });
    for number in [2, u64::MAX] {
        assert_eq!(guest.hvc(&[vendor::CHANNEL_NOTIFY.into(), number]), -3);
    }
    assert_eq!(guest.hvc(&[vendor::CHANNEL_NOTIFY.into(), 1]), 0);
    assert_eq!(guest.host.set(|m| core::mem::take(&mut m.rung)), [1]);
    guest.host.set(|m| m.refusal = Some(vendor::Error::NotSupported));
    assert_eq!(guest.hvc(&[vendor::CHANNEL_NOTIFY.into(), 0]), -1);

    assert!(!guest.pending(97));
    // GICD_ICFGR6: INTIDs 96 to 111; the second is edge-triggered.
    guest.store(0x0800_0C18, 0b10 << 2);
    guest.vm.ring(&guest.host, 1);
    assert!(guest.pending(97) && !guest.pending(96));
}
