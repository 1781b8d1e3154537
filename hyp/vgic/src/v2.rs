//! The GICv2 face: the distributor as the guest sees it (Arm IHI 0048B, section 4.3, without Security Extensions).
//! The CPU interface is the hardware's GICV.

use crate::dist::{CTLR, IIDR, IIDR_VALUE, TYPER};
use crate::state::bits;
use crate::{Effects, Vgic};

pub(crate) const VCPUS_MAX: usize = 8;

/// GICD_SGIR: [`crate::Sgi::from_sgir`] of a word that is written there is to be posted.
pub const SGIR: u64 = 0xf00;
/// ICPIDR2: architecture revision 2, as a GIC-400 shows it.
const ICPIDR2: usize = 0xfe8;
const ICPIDR2_VALUE: u64 = 0x2b;

impl Vgic {
    #[inline(never)]
    pub(crate) fn v2_gicd_read(&self, vcpu: usize, offset: usize, size: usize) -> u64 {
        match (offset, size) {
            (CTLR, 4) => self.read_groups(),
            (TYPER, 4) => (self.vcpus.len() as u64 - 1) << 5 | (self.words() as u64 - 1),
            (IIDR, 4) => IIDR_VALUE,
            (0x800..0xc00, 1 | 4) => self.read_itargets(vcpu, offset - 0x800, size),
            (0xf10..0xf30, 1 | 4) => self.read_senders(vcpu, offset % 16, size),
            (ICPIDR2, 4) => ICPIDR2_VALUE,
            _ => self.bank_read(vcpu, offset, size, 0..32),
        }
    }

    #[inline(never)]
    fn read_itargets(&self, vcpu: usize, first: usize, size: usize) -> u64 {
        (0..size).fold(0, |value, n| value | self.itargets(vcpu, first + n) << (8 * n))
    }

    #[inline(never)]
    fn read_senders(&self, vcpu: usize, first: usize, size: usize) -> u64 {
        (0..size).fold(0, |value, n| value | u64::from(self.sgi_senders(vcpu, first + n)) << (8 * n))
    }

    #[inline(never)]
    pub(crate) fn v2_gicd_write(&mut self, vcpu: usize, offset: usize, size: usize, value: u64) -> Effects {
        let bytes = value.to_le_bytes();
        match (offset, size) {
            (CTLR, 4) => self.write_groups(value),
            (0x820..0xc00, 1 | 4) => self.write_itargets(offset - 0x800, &bytes[..size]),
            (0xf10..0xf20, 1 | 4) => {
                let mut effects = Effects::NONE;
                for (n, &senders) in bytes[..size].iter().enumerate() {
                    effects |= self.clear_sgi(vcpu, offset - 0xf10 + n, senders);
                }
                effects
            }
            (0xf20..0xf30, 1 | 4) => {
                // As if these vCPUs, of those that there are, had sent them.
                let present = u8::MAX >> (VCPUS_MAX - self.vcpus.len());
                let mut senders = [0; 8];
                senders[..size].copy_from_slice(&bytes[..size]);
                self.add_sgis(vcpu, offset - 0xf20, u64::from_le_bytes(senders.map(|byte| byte & present)))
            }
            _ => self.bank_write(vcpu, offset, size, value as u32, 0..32),
        }
    }

    /// GICD_ITARGETSR of one interrupt: SGIs and PPIs show the reader's own bit. In a uniprocessor it is RAZ/WI.
    fn itargets(&self, vcpu: usize, intid: usize) -> u64 {
        let w = intid / 32;
        if self.vcpus.len() == 1 || w >= self.words() {
            return 0;
        }
        if w == 0 {
            return 1 << vcpu;
        }
        let has = |n: usize| u64::from(self.vcpus[n].targets[w] >> (intid % 32) & 1);
        (0..self.vcpus.len()).fold(0, |mask, n| mask | has(n) << n)
    }

    fn write_itargets(&mut self, first: usize, masks: &[u8]) -> Effects {
        let w = first / 32;
        if self.vcpus.len() == 1 || w >= self.words() {
            return Effects::NONE;
        }
        let mut changed = 0;
        for (intid, mask) in (first % 32..).zip(masks) {
            changed |= 1 << intid;
            for (n, vcpu) in self.vcpus.iter_mut().enumerate() {
                let there = u32::from(mask >> n & 1);
                vcpu.targets[w] = vcpu.targets[w] & !(1 << intid) | there << intid;
            }
        }
        let moved = self.rehome(w);
        self.touch(0, w, changed | moved)
    }

    /// The vCPUs that have an SGI pending on `vcpu`, the one in a list register included.
    fn sgi_senders(&self, vcpu: usize, sgi: usize) -> u8 {
        let word = self.word(vcpu, 0);
        let listed = match self.listed_sender(vcpu, sgi) {
            Some(sender) if word.lr_pending & !(word.drop_pending | self.ended(vcpu, 0)) & 1 << sgi != 0 => {
                sender
            }
            _ => 0,
        };
        self.vcpus[vcpu].sgi_pending[sgi] | listed
    }

    /// GICD_CPENDSGIR: takes the SGIs of some senders back.
    fn clear_sgi(&mut self, vcpu: usize, sgi: usize, senders: u8) -> Effects {
        let listed = self.listed_sender(vcpu, sgi).is_some_and(|sender| sender & senders != 0);
        let left = self.vcpus[vcpu].sgi_pending[sgi] & !senders;
        self.vcpus[vcpu].sgi_pending[sgi] = left;
        let word = self.word_mut(vcpu, 0);
        word.latch &= !(u32::from(left == 0) << sgi);
        word.drop_pending |= u32::from(listed) << sgi;
        self.touch(vcpu, 0, 1 << sgi)
    }

    /// The sender, as a mask, of the SGI in a list register.
    fn listed_sender(&self, vcpu: usize, sgi: usize) -> Option<u8> {
        let vcpu = &self.vcpus[vcpu];
        bits(vcpu.used)
            .map(|n| &vcpu.lrs[n])
            .find(|lr| usize::from(lr.vintid) == sgi)
            .map(|lr| 1 << lr.source)
    }
}
