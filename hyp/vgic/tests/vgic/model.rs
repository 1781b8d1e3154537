//! The GIC's rules, one interrupt at a time, written from Arm IHI 0048B (sections 3.2 and 4.3) and Arm IHI 0069H
//! (chapter 4), with nothing of list registers.

use mobivmm_vgic::Version;

#[derive(Clone, Default)]
pub struct Irq {
    pub enabled: bool,
    pub group1: bool,
    pub edge: bool,
    pub line: bool,
    /// Pending by an edge, by ISPENDR, or by an SGI in GICv3.
    pub latch: bool,
    pub active: bool,
    pub priority: u8,
    /// vCPUs that have this SGI pending, in GICv2.
    pub senders: u8,
    /// vCPUs that an SPI may go to.
    pub targets: u8,
}

impl Irq {
    pub fn pending(&self) -> bool {
        self.latch || self.senders != 0 || self.line && !self.edge
    }
}

/// One-bit registers by their offset.
pub const GROUP: u64 = 0x080;
pub const SET_ENABLE: u64 = 0x100;
pub const CLEAR_ENABLE: u64 = 0x180;
pub const SET_PENDING: u64 = 0x200;
pub const CLEAR_PENDING: u64 = 0x280;
pub const SET_ACTIVE: u64 = 0x300;
pub const CLEAR_ACTIVE: u64 = 0x380;

pub struct Model {
    version: Version,
    pub private: Vec<Vec<Irq>>,
    pub spis: Vec<Irq>,
    pub groups: [bool; 2],
}

impl Model {
    pub fn new(version: Version, vcpus: usize, spis: usize) -> Model {
        let sgi = Irq { edge: true, enabled: version == Version::V2, ..Irq::default() };
        let mut bank = vec![sgi; 16];
        bank.resize(32, Irq::default());
        let targets = u8::from(version == Version::V3 || vcpus == 1);
        Model {
            version,
            private: vec![bank; vcpus],
            spis: vec![Irq { targets, ..Irq::default() }; spis],
            groups: [false; 2],
        }
    }

    pub fn irq(&self, vcpu: usize, intid: usize) -> &Irq {
        if intid < 32 { &self.private[vcpu][intid] } else { &self.spis[intid - 32] }
    }

    pub fn irq_mut(&mut self, vcpu: usize, intid: usize) -> &mut Irq {
        if intid < 32 { &mut self.private[vcpu][intid] } else { &mut self.spis[intid - 32] }
    }

    pub fn write_bit(&mut self, vcpu: usize, register: u64, intid: usize, one: bool) {
        let sgi_v2 = intid < 16 && self.version == Version::V2;
        let irq = self.irq_mut(vcpu, intid);
        match register {
            GROUP => irq.group1 = one,
            _ if !one => (),
            SET_ENABLE => irq.enabled = true,
            CLEAR_ENABLE => irq.enabled = false,
            SET_PENDING => irq.latch |= !sgi_v2,
            CLEAR_PENDING => irq.latch = false,
            SET_ACTIVE => irq.active = true,
            CLEAR_ACTIVE => irq.active = false,
            _ => unreachable!(),
        }
    }

    pub fn read_bit(&self, vcpu: usize, register: u64, intid: usize) -> bool {
        let irq = self.irq(vcpu, intid);
        match register {
            GROUP => irq.group1,
            SET_ENABLE => irq.enabled,
            SET_PENDING => irq.pending(),
            SET_ACTIVE => irq.active,
            _ => unreachable!(),
        }
    }

    pub fn set_line(&mut self, vcpu: usize, intid: usize, level: bool) {
        let irq = self.irq_mut(vcpu, intid);
        irq.latch |= irq.edge && level && !irq.line;
        irq.line = level;
    }

    pub fn send_sgi(&mut self, from: usize, to: usize, sgi: usize) {
        match self.version {
            Version::V2 => self.private[to][sgi].senders |= 1 << from,
            Version::V3 => self.private[to][sgi].latch = true,
        }
    }

    /// Whether the distributor would forward an interrupt to `vcpu`.
    pub fn forwards(&self, vcpu: usize, intid: usize) -> bool {
        let irq = self.irq(vcpu, intid);
        let targeted = intid < 32 || irq.targets >> vcpu & 1 != 0;
        irq.pending() && irq.enabled && self.groups[usize::from(irq.group1)] && !irq.active && targeted
    }

    /// The interrupts that only `vcpu` may take, and it may.
    pub fn only_for(&self, vcpu: usize) -> impl Iterator<Item = usize> {
        (0..32 + self.spis.len())
            .filter(move |&intid| self.forwards(vcpu, intid))
            .filter(move |&intid| intid < 32 || self.irq(vcpu, intid).targets == 1 << vcpu)
    }

    /// The priority of the most urgent of those.
    pub fn most_urgent(&self, vcpu: usize) -> Option<u8> {
        self.only_for(vcpu).map(|intid| self.irq(vcpu, intid).priority).min()
    }

    pub fn acknowledge(&mut self, vcpu: usize, intid: usize, source: u8) {
        assert!(self.forwards(vcpu, intid), "vCPU {vcpu} got {intid}, which is not to be forwarded");
        let irq = self.irq_mut(vcpu, intid);
        if irq.senders != 0 {
            assert!(irq.senders >> source & 1 != 0, "SGI {intid} from {source}, who did not send it");
            irq.senders &= !(1 << source);
        }
        irq.latch = false;
        irq.active = true;
    }
}
