//! A VM's vGIC, the CPUs that its vCPUs run on, and physical interrupts behind some of the virtual ones.

use crate::hw::{Ack, Hw};
use mobivmm_vgic::{Config, Effects, Posted, Sgi, VcpuSet, Version, Vgic, listed_word};

/// The virtual timer, mapped on each vCPU.
pub const TIMER: u16 = 27;
/// A mapped SPI, and the physical one behind it.
pub const DEVICE: u16 = 40;
pub const DEVICE_PHYSICAL: u16 = 77;

/// A physical level-triggered interrupt.
#[derive(Clone, Copy, Default)]
pub struct Physical {
    pub line: bool,
    pub active: bool,
}

pub struct Machine {
    pub version: Version,
    pub vgic: Vgic,
    pub posted: Vec<Posted>,
    pub cpus: Vec<Hw>,
    pub loaded: Vec<bool>,
    pub timers: Vec<Physical>,
    pub device: Physical,
    /// Kicks that [`Machine::settle`] has yet to deliver.
    pub kicked: VcpuSet,
    /// Physical interrupts that were taken and made pending: vCPU and INTID.
    pub fired: Vec<(usize, u16)>,
    /// Per vCPU: how often a step had to follow since its list registers were up to date.
    pub steps: Vec<u32>,
}

impl Machine {
    pub fn new(version: Version, vcpus: usize, spis: usize, list_registers: usize) -> Machine {
        let mut vgic = Vgic::new(Config { version, vcpus, spis, list_registers }).unwrap();
        for vcpu in 0..vcpus {
            vgic.map_hw(vcpu, TIMER, TIMER);
            let _ = vgic.set_online(vcpu, true);
        }
        vgic.map_hw(0, DEVICE, DEVICE_PHYSICAL);
        Machine {
            version,
            vgic,
            posted: (0..vcpus).map(|_| Posted::default()).collect(),
            cpus: (0..vcpus).map(|_| Hw::new(version, list_registers)).collect(),
            loaded: vec![true; vcpus],
            timers: vec![Physical::default(); vcpus],
            device: Physical::default(),
            kicked: VcpuSet::EMPTY,
            fired: vec![],
            steps: vec![0; vcpus],
        }
    }

    /// Records what a call asks for. It happens on CPU `vcpu`.
    pub fn owe(&mut self, vcpu: usize, effects: Effects) {
        self.kicked.0 |= effects.kick.0;
        if effects.deactivate {
            self.deactivate(vcpu);
        }
    }

    fn deactivate(&mut self, vcpu: usize) {
        while let Some(pintid) = self.vgic.take_deactivation(self.loaded[vcpu].then_some(vcpu)) {
            match pintid {
                TIMER => self.timers[vcpu].active = false,
                DEVICE_PHYSICAL => self.device.active = false,
                other => panic!("{other} is not mapped"),
            }
        }
    }

    /// What the guest's deactivations of mapped interrupts did in the hardware.
    fn follow_hardware(&mut self, vcpu: usize) {
        for pintid in std::mem::take(&mut self.cpus[vcpu].deactivated) {
            let physical = if pintid == TIMER { &mut self.timers[vcpu] } else { &mut self.device };
            assert!(physical.active, "deactivated {pintid} twice");
            physical.active = false;
        }
    }

    /// Runs `vcpu` through an exit: physical interrupts that are due, maintenance, and the way back in.
    pub fn pass(&mut self, vcpu: usize) {
        while self.step(vcpu) {}
        assert!(!self.loaded[vcpu] || !self.vgic.needs_enter(vcpu));
        assert!(!self.cpus[vcpu].maintenance(), "maintenance that does not go away");
        self.steps[vcpu] = 0;
    }

    /// One step of that. Until it returns false, whatever else may happen, but the guest is not entered.
    pub fn step(&mut self, vcpu: usize) -> bool {
        self.follow_hardware(vcpu);
        if !self.loaded[vcpu] {
            return false;
        }
        if self.timers[vcpu].line && !self.timers[vcpu].active {
            self.timers[vcpu].active = true;
            self.fired.push((vcpu, TIMER));
            let effects = self.vgic.fire(vcpu, TIMER, &mut self.cpus[vcpu]);
            assert_eq!(effects.kick.contains(vcpu), self.vgic.needs_enter(vcpu));
            self.owe(vcpu, effects);
        }
        if self.device.line && !self.device.active {
            self.device.active = true;
            self.fired.push((vcpu, DEVICE));
            let effects = self.vgic.line(vcpu, DEVICE, true);
            self.owe(vcpu, effects);
        }
        if self.cpus[vcpu].maintenance() {
            let effects = self.vgic.maintenance(vcpu, &mut self.cpus[vcpu]);
            assert_eq!(effects.kick.contains(vcpu), self.vgic.needs_enter(vcpu));
            self.owe(vcpu, effects);
        }
        self.kicked = self.kicked.without(vcpu);
        let delivered = self.vgic.deliver(vcpu, &self.posted[vcpu], &mut self.cpus[vcpu]);
        let effects = delivered.unwrap_or_else(|| self.vgic.enter(vcpu, &mut self.cpus[vcpu]));
        self.cpus[vcpu].check();
        self.owe(vcpu, effects);
        let again = self.vgic.needs_enter(vcpu);
        assert_eq!(again, effects.kick.contains(vcpu));
        self.steps[vcpu] = if again { self.steps[vcpu] + 1 } else { 0 };
        assert!(self.steps[vcpu] <= 40, "list registers that are never up to date");
        again
    }

    /// Whether a CPU has a reason to leave its guest.
    pub fn due(&self, vcpu: usize) -> bool {
        self.loaded[vcpu]
            && (self.kicked.contains(vcpu)
                || self.cpus[vcpu].maintenance()
                || !self.cpus[vcpu].deactivated.is_empty()
                || self.timers[vcpu].line && !self.timers[vcpu].active
                || self.device.line && !self.device.active)
    }

    /// Delivers kicks, physical and maintenance interrupts until nothing is due.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            let Some(vcpu) = (0..self.cpus.len()).find(|&vcpu| self.due(vcpu)) else {
                return;
            };
            self.pass(vcpu);
        }
        panic!("does not come to rest");
    }

    pub fn load(&mut self, vcpu: usize) {
        if !self.loaded[vcpu] {
            self.timers[vcpu].active = self.vgic.physical_active(vcpu, TIMER);
            self.loaded[vcpu] = true;
            self.pass(vcpu);
        }
    }

    pub fn unload(&mut self, vcpu: usize) {
        if self.loaded[vcpu] {
            self.follow_hardware(vcpu);
            let effects = self.vgic.exit(vcpu, &mut self.cpus[vcpu]);
            self.owe(vcpu, effects);
            assert!(self.cpus[vcpu].is_clear());
            self.loaded[vcpu] = false;
            self.steps[vcpu] = 0;
            self.timers[vcpu].active = false;
        }
    }

    /// Folds all list registers, so that registers read exactly.
    pub fn fold(&mut self) {
        let loaded = self.loaded.clone();
        (0..self.cpus.len()).for_each(|vcpu| self.unload(vcpu));
        (0..self.cpus.len()).filter(|&vcpu| loaded[vcpu]).for_each(|vcpu| self.load(vcpu));
        self.settle();
    }

    /// Posts an SGI, and kicks its targets.
    pub fn send(&mut self, sgi: Sgi) {
        sgi.targets.iter().for_each(|to| self.posted[to].post(sgi));
        self.kicked.0 |= sgi.targets.0;
    }

    /// What comes before an access to a register of the private interrupts of `owner`.
    pub fn absorb(&mut self, owner: usize, offset: u64) {
        if self.version == Version::V3 || listed_word(offset) == Some(0) {
            self.vgic.absorb(owner, &self.posted[owner]);
        }
    }

    /// A write of a distributor register that SGIs, PPIs and SPIs share, for word `w` at `offset` of word 0, by `vcpu`.
    /// `owner` is whose private word it is.
    pub fn write(&mut self, vcpu: usize, owner: usize, intid: usize, offset: u64, size: usize, value: u64) {
        self.absorb(owner, offset);
        let effects = if self.version == Version::V3 && intid < 32 {
            self.vgic.gicr_write(owner as u64 * 0x2_0000 + 0x1_0000 + offset, size, value)
        } else {
            self.vgic.gicd_write(vcpu, offset, size, value)
        };
        self.owe(vcpu, effects);
    }

    /// As [`Machine::write`].
    pub fn read(&mut self, owner: usize, intid: usize, offset: u64, size: usize) -> u64 {
        self.absorb(owner, offset);
        if self.version == Version::V3 && intid < 32 {
            self.vgic.gicr_read(owner as u64 * 0x2_0000 + 0x1_0000 + offset, size)
        } else {
            self.vgic.gicd_read(owner, offset, size)
        }
    }

    /// The same by `vcpu` itself, which is loaded.
    pub fn read_own(&mut self, vcpu: usize, intid: usize, offset: u64) -> u64 {
        self.absorb(vcpu, offset);
        if let Some(word) = listed_word(offset) {
            self.follow_hardware(vcpu);
            let effects = self.vgic.observe(vcpu, word, &mut self.cpus[vcpu]);
            assert!(!effects.kick.contains(vcpu));
            self.owe(vcpu, effects);
            if self.vgic.needs_enter(vcpu) {
                self.kicked.0 |= 1 << vcpu;
            }
        }
        self.read(vcpu, intid, offset, 4)
    }

    /// Sets one bit of a one-bit register.
    pub fn set_bit(&mut self, vcpu: usize, register: u64, intid: u16) {
        let intid = usize::from(intid);
        self.write(vcpu, vcpu, intid, register + (intid / 32 * 4) as u64, 4, 1 << (intid % 32));
    }

    pub fn set_priority(&mut self, vcpu: usize, intid: u16, priority: u8) {
        self.write(vcpu, vcpu, intid.into(), 0x400 + u64::from(intid), 1, priority.into());
    }

    /// Routes an SPI to one vCPU.
    pub fn set_target(&mut self, intid: u16, vcpu: usize) {
        let effects = match self.version {
            Version::V2 => self.vgic.gicd_write(0, 0x800 + u64::from(intid), 1, 1 << vcpu),
            Version::V3 => self.vgic.gicd_write(0, 0x6000 + 8 * u64::from(intid), 8, vcpu as u64),
        };
        self.owe(0, effects);
    }

    pub fn set_groups(&mut self, groups: u64) {
        let effects = self.vgic.gicd_write(0, 0, 4, groups);
        self.owe(0, effects);
    }

    pub fn line(&mut self, vcpu: usize, intid: u16, level: bool) {
        let effects = self.vgic.line(vcpu, intid, level);
        self.owe(vcpu, effects);
    }

    pub fn pulse(&mut self, vcpu: usize, intid: u16) {
        let effects = self.vgic.pulse(vcpu, intid);
        self.owe(vcpu, effects);
    }

    /// The guest's acknowledge, all being settled before and after.
    pub fn ack(&mut self, vcpu: usize) -> Option<Ack> {
        self.settle();
        let ack = self.loaded[vcpu].then(|| self.cpus[vcpu].ack()).flatten();
        self.settle();
        ack
    }

    pub fn eoi(&mut self, vcpu: usize, intid: u16) {
        self.cpus[vcpu].eoi(intid);
        self.settle();
    }

    pub fn dir(&mut self, vcpu: usize, intid: u16) {
        if !self.cpus[vcpu].dir(intid) {
            let effects = self.vgic.dir(vcpu, intid.into());
            self.owe(vcpu, effects);
        }
        self.settle();
    }
}
