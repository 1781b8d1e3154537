//! Random guests: whatever sequence of register writes, lines, SGIs, acknowledges, ends and vCPU switches, the guest
//! sees what the model sees.

use crate::machine::{DEVICE, Machine, TIMER};
use crate::model::*;
use mobivmm_vgic::{Sgi, SgiRegister, Version};
use proptest::prelude::*;

const SPIS: usize = 64;

#[derive(Clone, Debug)]
enum Op {
    Bits {
        register: u64,
        word: usize,
        mask: u32,
    },
    Priority {
        intid: usize,
        priority: u8,
    },
    Edge {
        intid: usize,
        edge: bool,
    },
    Targets {
        intid: usize,
        mask: u8,
    },
    Groups(u8),
    SgiTo {
        sgi: usize,
        mask: u8,
    },
    SgiOthers {
        sgi: usize,
        group1: bool,
    },
    SgiSet {
        sgi: usize,
        senders: u8,
        set: bool,
    },
    Line {
        intid: usize,
        level: bool,
    },
    Pulse {
        intid: usize,
    },
    Timer(bool),
    Device(bool),
    Ack,
    Eoi,
    Dir {
        pick: usize,
    },
    Load,
    Unload,
    Read {
        register: u64,
        word: usize,
    },
    /// What follows comes while list registers are brought up to date, between two steps of that.
    Between,
    Compare,
}

/// An INTID of a small set, so that things meet: some SGIs, PPIs, the mapped ones, and SPIs of both words.
fn intid() -> impl Strategy<Value = usize> {
    prop_oneof![0..4usize, 24..29usize, 38..44usize, 62..68usize]
}

fn mask() -> impl Strategy<Value = u32> {
    let narrow = intid().prop_map(|intid| 1 << (intid % 32));
    prop_oneof![narrow, any::<u32>(), Just(!0)]
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(GROUP),
        6 => Just(SET_ENABLE),
        1 => Just(CLEAR_ENABLE),
        3 => Just(SET_PENDING),
        1 => Just(CLEAR_PENDING),
        1 => Just(SET_ACTIVE),
        1 => Just(CLEAR_ACTIVE),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (register(), 0..3usize, mask()).prop_map(|(register, word, mask)| Op::Bits { register, word, mask }),
        4 => (intid(), any::<u8>()).prop_map(|(intid, priority)| Op::Priority { intid, priority }),
        2 => (intid(), any::<bool>()).prop_map(|(intid, edge)| Op::Edge { intid, edge }),
        6 => (intid(), 0..8u8).prop_map(|(intid, mask)| Op::Targets { intid, mask }),
        1 => prop_oneof![Just(3u8), 0..4u8].prop_map(Op::Groups),
        3 => (0..4usize, any::<u8>()).prop_map(|(sgi, mask)| Op::SgiTo { sgi, mask }),
        1 => (0..4usize, any::<bool>()).prop_map(|(sgi, group1)| Op::SgiOthers { sgi, group1 }),
        2 => (0..4usize, any::<u8>(), any::<bool>()).prop_map(|(sgi, senders, set)| Op::SgiSet { sgi, senders, set }),
        8 => (intid(), any::<bool>()).prop_map(|(intid, level)| Op::Line { intid, level }),
        3 => intid().prop_map(|intid| Op::Pulse { intid }),
        2 => any::<bool>().prop_map(Op::Timer),
        2 => any::<bool>().prop_map(Op::Device),
        14 => Just(Op::Ack),
        12 => Just(Op::Eoi),
        6 => any::<usize>().prop_map(|pick| Op::Dir { pick }),
        2 => Just(Op::Load),
        1 => Just(Op::Unload),
        4 => (prop_oneof![Just(SET_PENDING), Just(SET_ACTIVE)], 0..3usize)
            .prop_map(|(register, word)| Op::Read { register, word }),
        12 => Just(Op::Between),
        2 => Just(Op::Compare),
    ]
}

/// The guest and both views of its interrupt controller.
struct Run {
    machine: Machine,
    model: Model,
    split_eoi: bool,
    /// After the next operation there is one step only.
    between: bool,
    /// Per vCPU: acknowledged and not yet ended (EOIR), the innermost last, and whether still active then.
    running: Vec<Vec<(u16, bool)>>,
    /// Per vCPU, EOImode = 1: ended and not yet deactivated (DIR), as far as the guest knows.
    dropped: Vec<Vec<u16>>,
}

impl Run {
    fn new(version: Version, vcpus: usize, list_registers: usize, split_eoi: bool) -> Run {
        let mut machine = Machine::new(version, vcpus, SPIS, list_registers);
        machine.cpus.iter_mut().for_each(|cpu| cpu.split_eoi = split_eoi);
        let mut model = Model::new(version, vcpus, SPIS);
        machine.set_groups(3);
        model.groups = [true; 2];
        Run {
            machine,
            model,
            split_eoi,
            between: false,
            running: vec![vec![]; vcpus],
            dropped: vec![vec![]; vcpus],
        }
    }

    fn settle(&mut self) {
        self.machine.settle();
        self.follow_fired();
    }

    fn follow_fired(&mut self) {
        for (vcpu, intid) in std::mem::take(&mut self.machine.fired) {
            self.model.irq_mut(vcpu, intid.into()).latch = true;
        }
    }

    fn write(&mut self, vcpu: usize, intid: usize, offset: u64, size: usize, value: u64) {
        self.machine.write(vcpu, vcpu, intid, offset, size, value);
    }

    fn step(&mut self, vcpu: usize, op: &Op) {
        let mapped = |intid: usize| [TIMER, DEVICE].contains(&(intid as u16));
        if let Op::Eoi | Op::Dir { .. } | Op::Read { .. } = op {
            // The guest does these, which is entered only when its list registers are up to date.
            self.settle();
        }
        match *op {
            Op::Bits { register, word, mask } => self.write_bits(vcpu, register, word, mask),
            // With EOImode = 0 a spilled active interrupt is known by its priority alone.
            Op::Priority { intid, priority } if self.split_eoi || !self.model.irq(vcpu, intid).active => {
                self.write(vcpu, intid, 0x400 + intid as u64, 1, priority.into());
                self.model.irq_mut(vcpu, intid).priority = priority & 0xf8;
            }
            Op::Edge { intid, edge } if intid >= 16 && !mapped(intid) => {
                let (offset, shift) = (0xc00 + (intid / 16 * 4) as u64, intid % 16 * 2 + 1);
                let old = self.machine.read(vcpu, intid, offset, 4);
                self.write(vcpu, intid, offset, 4, old & !(1 << shift) | u64::from(edge) << shift);
                self.model.irq_mut(vcpu, intid).edge = edge;
            }
            Op::Targets { intid, mask } if intid >= 32 => self.write_targets(vcpu, intid, mask),
            Op::Groups(groups) => {
                self.machine.set_groups(groups.into());
                self.model.groups = [groups & 1 != 0, groups & 2 != 0];
            }
            Op::SgiTo { sgi, mask } => match self.machine.version {
                Version::V2 => self.send_v2(vcpu, 0, sgi, mask),
                Version::V3 => self.send_v3(vcpu, sgi, mask & 1 != 0, u64::from(mask >> 1)),
            },
            Op::SgiOthers { sgi, group1 } => match self.machine.version {
                Version::V2 => self.send_v2(vcpu, if group1 { 1 } else { 2 }, sgi, 0),
                Version::V3 => self.send_v3(vcpu, sgi, group1, 1 << 40),
            },
            Op::SgiSet { sgi, senders, set } if self.machine.version == Version::V2 => {
                let register = if set { 0xf20 } else { 0xf10 };
                self.write(vcpu, sgi, register + sgi as u64, 1, senders.into());
                let present = (1 << self.machine.cpus.len()) - 1;
                let pending = &mut self.model.private[vcpu][sgi].senders;
                *pending = if set { *pending | senders & present } else { *pending & !senders };
            }
            Op::Line { intid, level } if intid >= 16 && !mapped(intid) => {
                self.machine.line(vcpu, intid as u16, level);
                self.model.set_line(vcpu, intid, level);
            }
            Op::Pulse { intid } if intid >= 16 && !mapped(intid) => {
                self.machine.pulse(vcpu, intid as u16);
                self.model.irq_mut(vcpu, intid).latch = true;
            }
            Op::Timer(line) => self.machine.timers[vcpu].line = line,
            Op::Device(line) => self.machine.device.line = line,
            Op::Ack => {
                self.ack(vcpu);
            }
            Op::Eoi => self.eoi(vcpu),
            Op::Dir { pick } => self.dir(vcpu, pick),
            Op::Load => self.machine.load(vcpu),
            Op::Unload => self.machine.unload(vcpu),
            Op::Read { register, word } => self.read(vcpu, register, word),
            Op::Compare => self.compare(),
            Op::Between => return self.between = true,
            _ => (),
        }
        if std::mem::take(&mut self.between) {
            for vcpu in 0..self.machine.cpus.len() {
                if self.machine.due(vcpu) {
                    self.machine.step(vcpu);
                }
            }
            return self.follow_fired();
        }
        self.settle();
        self.check_physical();
        self.check_waiting();
    }

    fn write_bits(&mut self, vcpu: usize, register: u64, word: usize, mut mask: u32) {
        if !self.split_eoi {
            // Ending an interrupt that is not in a list register, as the guest would after these, is not traced to it.
            match register {
                SET_ACTIVE => return,
                CLEAR_ACTIVE => {
                    (0..32)
                        .filter(|n| self.model.irq(vcpu, word * 32 + n).active)
                        .for_each(|n| mask &= !(1 << n));
                }
                _ => (),
            }
        }
        self.write(vcpu, word * 32, register + word as u64 * 4, 4, mask.into());
        for n in 0..32 {
            let intid = word * 32 + n;
            self.model.write_bit(vcpu, register, intid, mask >> n & 1 != 0);
            if register == CLEAR_ACTIVE && mask >> n & 1 != 0 {
                // The guest knows better than to deactivate it by DIR again.
                for other in 0..self.machine.cpus.len() {
                    if intid >= 32 || other == vcpu {
                        self.dropped[other].retain(|&id| usize::from(id) != intid);
                        self.running[other]
                            .iter_mut()
                            .filter(|run| usize::from(run.0) == intid)
                            .for_each(|run| run.1 = false);
                    }
                }
            }
        }
    }

    fn write_targets(&mut self, vcpu: usize, intid: usize, mask: u8) {
        let present = (1u8 << self.machine.cpus.len()) - 1;
        let mask = mask & present;
        let effects = match self.machine.version {
            Version::V2 => self.machine.vgic.gicd_write(vcpu, 0x800 + intid as u64, 1, mask.into()),
            Version::V3 => {
                let route = match mask {
                    _ if mask == present => 1 << 31,
                    0 => 0x0001_0203,
                    _ => mask.trailing_zeros().into(),
                };
                self.machine.vgic.gicd_write(vcpu, 0x6000 + 8 * intid as u64, 8, route)
            }
        };
        self.machine.owe(vcpu, effects);
        self.model.spis[intid - 32].targets = match self.machine.version {
            Version::V3 if mask != present => mask & mask.wrapping_neg(),
            _ => mask,
        };
    }

    fn send_v2(&mut self, vcpu: usize, filter: u64, sgi: usize, mask: u8) {
        let value = filter << 24 | u64::from(mask) << 16 | sgi as u64;
        self.machine.send(Sgi::from_sgir(value, vcpu, self.machine.cpus.len()));
        for to in 0..self.machine.cpus.len() {
            let meant = match filter {
                0 => mask >> to & 1 != 0,
                1 => to != vcpu,
                _ => to == vcpu,
            };
            if meant {
                self.model.send_sgi(vcpu, to, sgi);
            }
        }
    }

    fn send_v3(&mut self, vcpu: usize, sgi: usize, group1: bool, target: u64) {
        let register = if group1 { SgiRegister::Sgi1r } else { SgiRegister::Sgi0r };
        let value = (sgi as u64) << 24 | target;
        self.machine.send(Sgi::from_register(register, value, vcpu, self.machine.cpus.len()));
        for to in 0..self.machine.cpus.len() {
            let meant = if target >> 40 != 0 { to != vcpu } else { target >> to & 1 != 0 };
            if meant && self.model.private[to][sgi].group1 == group1 {
                self.model.send_sgi(vcpu, to, sgi);
            }
        }
    }

    /// The guest reads IAR: what it gets must be forwarded, and nothing more urgent may be left for it alone.
    fn ack(&mut self, vcpu: usize) -> bool {
        self.settle();
        if !self.machine.loaded[vcpu] {
            return false;
        }
        let running = self.machine.cpus[vcpu].running.last().copied();
        let most_urgent = self.model.most_urgent(vcpu).filter(|&p| running.is_none_or(|running| p < running));
        let Some(ack) = self.machine.cpus[vcpu].ack() else {
            assert_eq!(most_urgent, None, "vCPU {vcpu} did not get an interrupt of this priority");
            return false;
        };
        assert_eq!(ack.priority, self.model.irq(vcpu, ack.intid.into()).priority);
        assert!(
            most_urgent.is_none_or(|p| ack.priority <= p),
            "{ack:?} before one of priority {most_urgent:?}"
        );
        self.model.acknowledge(vcpu, ack.intid.into(), ack.source);
        self.running[vcpu].push((ack.intid, true));
        self.settle();
        true
    }

    fn eoi(&mut self, vcpu: usize) {
        if !self.machine.loaded[vcpu] {
            return;
        }
        let Some((intid, active)) = self.running[vcpu].pop() else {
            return;
        };
        if self.split_eoi {
            self.dropped[vcpu].extend(active.then_some(intid));
        } else {
            self.model.irq_mut(vcpu, intid.into()).active = false;
        }
        self.machine.eoi(vcpu, intid);
        self.settle();
    }

    fn dir(&mut self, vcpu: usize, pick: usize) {
        if !self.machine.loaded[vcpu] || self.dropped[vcpu].is_empty() {
            return;
        }
        let pick = pick % self.dropped[vcpu].len();
        let intid = self.dropped[vcpu].swap_remove(pick);
        self.machine.dir(vcpu, intid);
        self.model.irq_mut(vcpu, intid.into()).active = false;
        self.settle();
    }

    /// A physical interrupt is active exactly while the virtual one keeps it so, and taken whenever it can be.
    fn check_physical(&self) {
        for vcpu in 0..self.machine.cpus.len() {
            let (timer, irq) = (self.machine.timers[vcpu], self.model.irq(vcpu, TIMER.into()));
            assert!(!timer.active || irq.pending() || irq.active, "timer of vCPU {vcpu} stuck");
            assert!(!self.machine.loaded[vcpu] || !timer.line || timer.active);
        }
        let irq = self.model.irq(0, DEVICE.into());
        assert!(!self.machine.device.active || irq.pending() || irq.active, "device stuck");
    }

    /// What waits for a list register is not more urgent than what is pending in one; there is such, and NPIE tells when there no longer is.
    fn check_waiting(&self) {
        for vcpu in (0..self.machine.cpus.len()).filter(|&vcpu| self.machine.loaded[vcpu]) {
            let listed: Vec<_> = self.machine.cpus[vcpu].pending().map(|(_, intid, _)| intid).collect();
            let least_urgent = self.machine.cpus[vcpu].pending().map(|(_, _, priority)| priority).max();
            for intid in self.model.only_for(vcpu) {
                let priority = self.model.irq(vcpu, intid).priority;
                if !listed.contains(&(intid as u16)) {
                    assert!(self.machine.cpus[vcpu].control.pending_spilled, "nobody will ask for {intid}");
                    assert!(
                        least_urgent.is_some_and(|least_urgent| least_urgent <= priority),
                        "{intid} of priority {priority} waits for {listed:?}"
                    );
                }
            }
        }
    }

    /// A vCPU's own read: of what is in other vCPUs' list registers it may see what was there before.
    fn read(&mut self, vcpu: usize, register: u64, word: usize) {
        if !self.machine.loaded[vcpu] {
            return;
        }
        let value = self.machine.read_own(vcpu, word * 32, register + word as u64 * 4);
        let elsewhere = |intid: &usize| {
            let mut others = (0..self.machine.cpus.len()).filter(|&other| other != vcpu);
            *intid >= 32 && others.any(|other| self.machine.cpus[other].held().contains(&(*intid as u16)))
        };
        for intid in (word * 32..word * 32 + 32).filter(|intid| !elsewhere(intid)) {
            let expected = self.model.read_bit(vcpu, register, intid);
            assert_eq!(value >> (intid % 32) & 1 != 0, expected, "register {register:#x} of {intid}");
        }
    }

    fn compare(&mut self) {
        self.settle();
        self.machine.fold();
        self.settle();
        for vcpu in 0..self.machine.cpus.len() {
            for intid in 0..32 + SPIS {
                for register in [GROUP, SET_ENABLE, SET_PENDING, SET_ACTIVE] {
                    let word = self.machine.read(vcpu, intid, register + (intid / 32 * 4) as u64, 4);
                    let expected = self.model.read_bit(vcpu, register, intid);
                    assert_eq!(word >> (intid % 32) & 1 != 0, expected, "register {register:#x} of {intid}");
                }
                let priority = self.machine.read(vcpu, intid, 0x400 + intid as u64, 1);
                assert_eq!(priority, u64::from(self.model.irq(vcpu, intid).priority));
            }
        }
    }

    /// Lets all vCPUs run until nobody gets anything any more. Then nothing may be left that could be delivered.
    fn drain(&mut self) {
        for vcpu in 0..self.machine.cpus.len() {
            self.machine.timers[vcpu].line = false;
            self.machine.load(vcpu);
        }
        self.machine.device.line = false;
        for intid in 16..32 + SPIS {
            for vcpu in 0..if intid < 32 { self.machine.cpus.len() } else { 1 } {
                self.step(vcpu, &Op::Line { intid, level: false });
            }
        }
        let mut left = 2000;
        while left > 0 {
            left -= 1;
            let mut busy = false;
            for vcpu in 0..self.machine.cpus.len() {
                busy |= self.ack(vcpu) || !self.running[vcpu].is_empty() || !self.dropped[vcpu].is_empty();
                self.eoi(vcpu);
                self.dir(vcpu, 0);
            }
            if !busy {
                break;
            }
        }
        assert_ne!(left, 0, "interrupts without end");
        for vcpu in 0..self.machine.cpus.len() {
            for intid in 0..32 + SPIS {
                assert!(!self.model.forwards(vcpu, intid), "{intid} was lost");
            }
        }
        self.compare();
        self.check_physical();
        assert!(self.machine.cpus.iter().all(|cpu| !cpu.control.pending_spilled));
    }
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V2), Just(Version::V3)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn guests_see_what_the_architecture_says(
        version in version(),
        vcpus in 2..=3usize,
        list_registers in prop_oneof![1..=4usize, 5..=16usize],
        split_eoi in any::<bool>(),
        ops in prop::collection::vec((0..3usize, op()), 1..250),
    ) {
        let mut run = Run::new(version, vcpus, list_registers, split_eoi);
        for (vcpu, op) in &ops {
            run.step(vcpu % vcpus, op);
        }
        run.drain();
    }
}
