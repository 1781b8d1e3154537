//! Kicks take time: vCPUs go on acknowledging and ending interrupts from list registers that are out of date.

use crate::machine::Machine;
use crate::model::{CLEAR_ENABLE, SET_ACTIVE, SET_ENABLE};
use mobivmm_vgic::{Config, Posted, Sgi, Version, Vgic};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

#[derive(Clone, Debug)]
enum Op {
    Pulse(u16),
    Enable(u16, bool),
    Target(u16, usize),
    Priority(u16, u8),
    Ack,
    Eoi,
    /// The kick, or the maintenance interrupt, arrives.
    Pass,
    /// The same, as far as one step goes.
    Step,
    Switch,
}

fn op() -> impl Strategy<Value = Op> {
    let spi = 60..70u16;
    prop_oneof![
        6 => spi.clone().prop_map(Op::Pulse),
        2 => (spi.clone(), any::<bool>()).prop_map(|(intid, on)| Op::Enable(intid, on)),
        3 => (spi.clone(), 0..3usize).prop_map(|(intid, vcpu)| Op::Target(intid, vcpu)),
        1 => (spi, any::<u8>()).prop_map(|(intid, priority)| Op::Priority(intid, priority)),
        8 => Just(Op::Ack),
        8 => Just(Op::Eoi),
        4 => Just(Op::Pass),
        6 => Just(Op::Step),
        1 => Just(Op::Switch),
    ]
}

#[derive(Clone, Copy, Default)]
struct Pulses {
    /// One must still be delivered.
    due: bool,
    /// So many may be.
    allowed: u8,
}

struct Guest {
    machine: Machine,
    /// Per SPI: pulses that were not delivered yet. One that comes before an acknowledge whose vCPU did not hear of
    /// it in time may merge with that or be delivered after it; later ones merge with each other.
    outstanding: HashMap<u16, Pulses>,
    disabled: HashSet<u16>,
    /// Per vCPU: acknowledged and not ended, the innermost last.
    running: Vec<Vec<u16>>,
}

impl Guest {
    /// The guest is entered only when its list registers are up to date.
    fn resume(&mut self, vcpu: usize) {
        if self.machine.steps[vcpu] > 0 {
            self.machine.pass(vcpu);
        }
    }

    fn ack(&mut self, vcpu: usize) -> bool {
        self.resume(vcpu);
        let Some(ack) = self.machine.cpus[vcpu].ack() else {
            return false;
        };
        // A spilled active interrupt is known by its priority alone: that with which it was acknowledged.
        self.machine.set_priority(vcpu, ack.intid, ack.priority);
        let pulses = self.outstanding.entry(ack.intid).or_default();
        assert_ne!(pulses.allowed, 0, "{} delivered twice", ack.intid);
        *pulses = Pulses { due: false, allowed: (pulses.allowed - 1).min(1) };
        assert!(
            !self.running.iter().flatten().any(|&intid| intid == ack.intid),
            "{} while active",
            ack.intid
        );
        self.running[vcpu].push(ack.intid);
        true
    }

    fn eoi(&mut self, vcpu: usize) -> bool {
        self.resume(vcpu);
        let Some(intid) = self.running[vcpu].pop() else {
            return false;
        };
        self.machine.cpus[vcpu].eoi(intid);
        true
    }

    fn step(&mut self, vcpu: usize, op: &Op) {
        match *op {
            Op::Pulse(intid) => {
                let pulses = self.outstanding.entry(intid).or_default();
                *pulses = Pulses { due: true, allowed: (pulses.allowed + 1).min(2) };
                self.machine.pulse(vcpu, intid);
            }
            Op::Enable(intid, true) => {
                self.disabled.remove(&intid);
                self.machine.set_bit(vcpu, SET_ENABLE, intid);
            }
            Op::Enable(intid, false) => {
                self.disabled.insert(intid);
                self.machine.set_bit(vcpu, CLEAR_ENABLE, intid);
            }
            Op::Target(intid, to) => self.machine.set_target(intid, to % self.running.len()),
            Op::Priority(intid, priority) => {
                // A spilled active interrupt is known by its priority alone, until its end was counted.
                let (word, bit) = (u64::from(intid / 32), intid % 32);
                let active = self.machine.read(vcpu, intid.into(), SET_ACTIVE + 4 * word, 4) >> bit & 1 != 0;
                if !active && !self.running.iter().flatten().any(|&running| running == intid) {
                    self.machine.set_priority(vcpu, intid, priority);
                }
            }
            Op::Ack => {
                self.ack(vcpu);
            }
            Op::Eoi => {
                self.eoi(vcpu);
            }
            Op::Pass => self.machine.pass(vcpu),
            Op::Step => {
                self.machine.step(vcpu);
            }
            Op::Switch => {
                self.machine.unload(vcpu);
                self.machine.load(vcpu);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_pulse_is_delivered_once(
        version in prop_oneof![Just(Version::V2), Just(Version::V3)],
        vcpus in 2..=3usize,
        list_registers in 1..=4usize,
        ops in prop::collection::vec((0..3usize, op()), 1..300),
    ) {
        let mut machine = Machine::new(version, vcpus, 64, list_registers);
        machine.set_groups(1);
        for intid in 60..70 {
            machine.set_target(intid, usize::from(intid) % vcpus);
            machine.set_bit(0, SET_ENABLE, intid);
        }
        machine.settle();
        let mut guest = Guest { machine, outstanding: HashMap::new(), disabled: HashSet::new(), running: vec![vec![]; vcpus] };
        for (vcpu, op) in &ops {
            guest.step(vcpu % vcpus, op);
        }
        loop {
            guest.machine.settle();
            if !(0..vcpus).fold(false, |busy, vcpu| busy | guest.ack(vcpu) | guest.eoi(vcpu)) {
                break;
            }
        }
        for (intid, pulses) in guest.outstanding {
            prop_assert!(!pulses.due || guest.disabled.contains(&intid), "{intid} was lost");
        }
    }
}

#[test]
fn every_sgi_that_several_cpus_post_arrives() {
    const SENDERS: usize = 4;
    const EACH: usize = 500;
    let config = Config { version: Version::V2, vcpus: SENDERS, spis: 32, list_registers: 4 };
    let mut vgic = Vgic::new(config).unwrap();
    let (posted, told) = (Posted::default(), AtomicBool::new(false));
    let arrived: [AtomicUsize; SENDERS] = Default::default();
    thread::scope(|scope| {
        let (posted, told) = (&posted, &told);
        for (sender, arrived) in arrived.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..EACH {
                    posted.post(Sgi::from_sgir(1 << 16 | (round % 16) as u64, sender, SENDERS));
                    told.swap(true, Ordering::AcqRel);
                    while arrived.load(Ordering::Acquire) == round {
                        thread::yield_now();
                    }
                }
            });
        }
        let mut left = SENDERS * EACH;
        while left > 0 {
            if !told.swap(false, Ordering::AcqRel) {
                thread::yield_now();
                continue;
            }
            vgic.absorb(0, posted);
            for sgi in 0..16 {
                let senders = vgic.gicd_read(0, 0xf20 + sgi, 1);
                let _ = vgic.gicd_write(0, 0xf10 + sgi, 1, senders);
                for sender in (0..SENDERS).filter(|sender| senders >> sender & 1 != 0) {
                    arrived[sender].fetch_add(1, Ordering::Release);
                    left -= 1;
                }
            }
        }
    });
    vgic.absorb(0, &posted);
    assert_eq!(vgic.gicd_read(0, 0x200, 4), 0, "nothing is left over");
}
