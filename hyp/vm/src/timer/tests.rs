use super::*;
use crate::Power;
use crate::exit::SysReg;
use crate::testing::Guest;

const TVAL: SysReg = SysReg::new(3, 3, 14, 2, 0);
const CTL: SysReg = SysReg::new(3, 3, 14, 2, 1);
const CVAL: SysReg = SysReg::new(3, 3, 14, 2, 2);
const CNTPCT: SysReg = SysReg::new(3, 3, 14, 0, 1);

fn at(counter: u64) -> Guest {
    let guest = Guest::v3();
    guest.host.set(|m| m.counter = counter);
    guest
}

#[test]
fn the_counter_is_the_vms() {
    let mut guest = at(1000);
    guest.vm.set_cntvoff(400);
    assert_eq!(guest.mrs(CNTPCT), Some(600));
    guest.vm.set_cntvoff(0u64.wrapping_sub(400));
    assert_eq!(guest.mrs(CNTPCT), Some(1400), "a VM that came from elsewhere may be ahead");
}

#[test]
fn the_line_follows_the_condition() {
    let mut guest = at(1000);
    guest.vm.set_cntvoff(400);
    assert_eq!(guest.msr(TVAL, 50), Some(None));
    assert_eq!(guest.mrs(CVAL), Some(650));
    assert_eq!(guest.host.set(|m| m.timer), None, "not enabled");
    guest.msr(CTL, ENABLE);
    assert_eq!(guest.host.set(|m| m.timer), Some(1050), "on the physical counter");
    assert!(!guest.pending(30));

    guest.host.set(|m| m.counter = 1049);
    due(&guest.vm, 0, &guest.host);
    assert!(!guest.pending(30), "called too early: nothing happens");
    guest.host.set(|m| m.counter = 1050);
    due(&guest.vm, 0, &guest.host);
    assert!(guest.pending(30));
    assert_eq!(guest.mrs(CTL), Some(ENABLE | ISTATUS));

    guest.msr(CTL, ENABLE | IMASK);
    assert!(!guest.pending(30));
    assert_eq!(guest.mrs(CTL), Some(ENABLE | IMASK | ISTATUS));
    guest.msr(CTL, ENABLE);
    assert!(guest.pending(30), "unmasked while due");
    assert_eq!(guest.host.set(|m| m.timer), None, "nothing to wait for");
    guest.msr(CVAL, 10_000);
    assert!(!guest.pending(30));
    assert_eq!(guest.host.set(|m| m.timer), Some(10_400));
    assert_eq!(guest.mrs(CTL), Some(ENABLE));
}

#[test]
fn tval_is_signed_and_32_bits_wide() {
    let mut guest = at(1000);
    guest.msr(TVAL, 0xdead_beef_ffff_ffff);
    assert_eq!(guest.mrs(CVAL), Some(999));
    assert_eq!(guest.mrs(TVAL), Some(0xffff_ffff));
    guest.msr(CTL, ENABLE);
    assert!(guest.pending(30), "a negative value is in the past");
}

#[test]
fn control_keeps_two_bits() {
    let mut guest = at(0);
    guest.msr(CVAL, u64::MAX);
    guest.msr(CTL, u64::MAX);
    assert_eq!(guest.mrs(CTL), Some(ENABLE | IMASK));
    assert_eq!(guest.state.timer.cntp_ctl, ENABLE | IMASK);
}

#[test]
fn the_virtual_timer_wakes_a_vcpu_that_waits() {
    let guest = at(0);
    guest.vm.set_cntvoff(100);
    let timer = |cntv_ctl, cntv_cval| VTimer { cntv_ctl, cntv_cval, ..VTimer::default() };
    assert_eq!(virtual_deadline(&guest.vm, &timer(ENABLE, 5)), Some(105));
    assert_eq!(virtual_deadline(&guest.vm, &timer(ENABLE | IMASK, 5)), None);
    assert_eq!(virtual_deadline(&guest.vm, &timer(0, 5)), None);
    assert_eq!(virtual_deadline(&guest.vm, &timer(ENABLE, u64::MAX)), Some(u64::MAX), "no wrap");
    guest.vm.set_cntvoff(0u64.wrapping_sub(100));
    assert_eq!(virtual_deadline(&guest.vm, &timer(ENABLE, 5)), Some(0), "no wrap");
}

#[test]
fn a_reset_disarms() {
    let mut guest = at(1000);
    guest.msr(CVAL, 5000);
    guest.msr(CTL, ENABLE);
    assert!(guest.vm.stop(Power::Reset) && guest.vm.settle(Power::Reset));
    assert!(guest.vm.boot(
        crate::Entry { pc: crate::testing::ENTRY, context: 0 },
        &mut guest.vm.new_gic().unwrap(),
        &guest.host
    ));
    assert!(guest.vm.prepare(0, &mut guest.state, &guest.host));
    assert_eq!(guest.host.set(|m| m.timer), None);
    guest.host.set(|m| m.counter = 6000);
    due(&guest.vm, 0, &guest.host);
    assert!(!guest.pending(30));
}
