//! The registers that both faces share: those of the distributor with one bit, two bits or a byte an interrupt, which
//! GICv3 repeats for SGIs and PPIs in each redistributor's SGI frame at the same offsets (Arm IHI 0048B, section 4.3;
//! Arm IHI 0069H, sections 12.9 and 12.11).

use crate::sgi::{HALVES, Posted};
use crate::state::{Groups, bits};
use crate::{Effects, INTID_LIMIT, SGIS, VcpuSet, Version, Vgic};
use core::ops::Range;

pub(crate) const CTLR: usize = 0x000;
pub(crate) const TYPER: usize = 0x004;
pub(crate) const IIDR: usize = 0x008;
/// Implementer Arm (JEP106 0x43b), product 'M'.
pub(crate) const IIDR_VALUE: u64 = 0x4d00_043b;

/// One-bit registers: each kind has 32 words from 0x080 on.
#[derive(Clone, Copy)]
enum Bits {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

enum Register {
    /// Kind and word.
    Bits(Bits, usize),
    /// IPRIORITYR: INTID of the first byte.
    Priority(usize),
    /// ICFGR: INTID of the first of 16.
    Config(usize),
}

fn decode(offset: usize, size: usize) -> Option<Register> {
    let kind = match offset & !0x7f {
        0x080 => Bits::Group,
        0x100 => Bits::SetEnable,
        0x180 => Bits::ClearEnable,
        0x200 => Bits::SetPending,
        0x280 => Bits::ClearPending,
        0x300 => Bits::SetActive,
        0x380 => Bits::ClearActive,
        0x400..0x800 if size == 1 || size == 4 => return Some(Register::Priority(offset - 0x400)),
        0xc00..0xd00 if size == 4 => return Some(Register::Config((offset - 0xc00) * 4)),
        _ => return None,
    };
    (size == 4).then_some(Register::Bits(kind, offset % 0x80 / 4))
}

/// The word (of 32 INTIDs) of which the register at `offset` of a GICD or GICR frame shows pending or active state, which the accessing
/// vCPU's list registers have a part of ([`Vgic::observe`]).
#[inline]
pub fn listed_word(offset: u64) -> Option<usize> {
    match offset & 0xffff {
        offset @ 0x200..0x400 => Some((offset % 0x80 / 4) as usize),
        0xf10..0xf30 => Some(0),
        _ => None,
    }
}

/// The bits of a word that are interrupts.
fn valid(w: usize) -> u32 {
    if w == INTID_LIMIT / 32 { u32::MAX >> (32 - INTID_LIMIT % 32) } else { u32::MAX }
}

/// Puts bit n of the lower half at bit 2n.
fn spread(half: u32) -> u32 {
    [(8, 0x00ff_00ff), (4, 0x0f0f_0f0f), (2, 0x3333_3333), (1, 0x5555_5555)]
        .iter()
        .fold(half & 0xffff, |x, &(shift, mask)| (x | x << shift) & mask)
}

/// Puts bit 2n at bit n.
fn gather(word: u32) -> u32 {
    [(1, 0x3333_3333), (2, 0x0f0f_0f0f), (4, 0x00ff_00ff), (8, 0x0000_ffff)]
        .iter()
        .fold(word & 0x5555_5555, |x, &(shift, mask)| (x | x >> shift) & mask)
}

impl Vgic {
    /// A read by `vcpu` of `size` bytes at `offset` of the distributor. What does not exist, is misaligned or has
    /// another size reads as zero.
    pub fn gicd_read(&self, vcpu: usize, offset: u64, size: usize) -> u64 {
        let offset = offset as usize;
        match self.version {
            _ if !offset.is_multiple_of(size) || offset >= 0x1_0000 => 0,
            Version::V2 => self.v2_gicd_read(vcpu, offset, size),
            Version::V3 => self.v3_gicd_read(vcpu, offset, size),
        }
    }

    /// A write by `vcpu` of the lower `size` bytes of `value` at `offset` of the distributor. What does not exist, is
    /// misaligned or has another size is ignored.
    #[inline(always)]
    pub fn gicd_write(&mut self, vcpu: usize, offset: u64, size: usize, value: u64) -> Effects {
        let offset = offset as usize;
        match self.version {
            _ if !offset.is_multiple_of(size) || offset >= 0x1_0000 => Effects::NONE,
            Version::V2 => self.v2_gicd_write(vcpu, offset, size, value),
            Version::V3 => self.v3_gicd_write(vcpu, offset, size, value),
        }
    }

    /// Reads a register of the words in `window`; anything else reads as zero.
    #[inline(never)]
    pub(crate) fn bank_read(&self, vcpu: usize, offset: usize, size: usize, window: Range<usize>) -> u64 {
        let there = |w: &usize| *w < self.words() && window.contains(w);
        let value = match decode(offset, size) {
            Some(Register::Bits(kind, w)) if there(&w) => {
                let word = self.word(vcpu, w);
                match kind {
                    Bits::Group => word.group1,
                    Bits::SetEnable | Bits::ClearEnable => word.enabled,
                    Bits::SetPending | Bits::ClearPending => {
                        word.pending() | word.lr_pending & !(word.drop_pending | self.ended(vcpu, w))
                    }
                    Bits::SetActive | Bits::ClearActive => {
                        word.active | word.lr_active & !(word.drop_active | self.ended(vcpu, w))
                    }
                }
            }
            Some(Register::Priority(first)) if there(&(first / 32)) => {
                let priority = &self.word(vcpu, first / 32).priorities.of;
                (0..size).fold(0, |value, n| value | u32::from(priority[first % 32 + n]) << (8 * n))
            }
            Some(Register::Config(first)) if there(&(first / 32)) => {
                spread(self.word(vcpu, first / 32).edge >> (first % 32)) << 1
            }
            _ => 0,
        };
        value.into()
    }

    /// Writes a register of the words in `window`; anything else is ignored.
    #[inline(never)]
    pub(crate) fn bank_write(
        &mut self,
        vcpu: usize,
        offset: usize,
        size: usize,
        value: u32,
        window: Range<usize>,
    ) -> Effects {
        let words = self.words();
        let there = |w: &usize| *w < words && window.contains(w);
        match decode(offset, size) {
            Some(Register::Bits(kind, w)) if there(&w) => self.write_bits(vcpu, kind, w, value & valid(w)),
            Some(Register::Priority(first)) if there(&(first / 32)) => {
                let priorities = &mut self.word_mut(vcpu, first / 32).priorities;
                let mut changed = 0;
                for (n, &priority) in value.to_le_bytes()[..size].iter().enumerate() {
                    if first + n < INTID_LIMIT && priorities.of[first % 32 + n] != priority & 0xf8 {
                        priorities.set(first % 32 + n, priority);
                        changed |= 1 << (first % 32 + n);
                    }
                }
                self.touch(vcpu, first / 32, changed)
            }
            // The SGIs' register is read-only.
            Some(Register::Config(first)) if first > 0 && there(&(first / 32)) => {
                let (w, shift) = (first / 32, first % 32);
                let word = self.word_mut(vcpu, w);
                let edge = word.edge & !(0xffff << shift) | (gather(value >> 1) << shift) & valid(w);
                let changed = word.edge ^ edge;
                word.edge = edge;
                self.touch(vcpu, w, changed)
            }
            _ => Effects::NONE,
        }
    }

    fn write_bits(&mut self, vcpu: usize, kind: Bits, w: usize, value: u32) -> Effects {
        // In GICv2 the pending bits of SGIs are read-only: SPENDSGIR and CPENDSGIR write them.
        let writable = if w == 0 && self.version == Version::V2 { value & !0xffff } else { value };
        let word = self.word_mut(vcpu, w);
        let changed = match kind {
            Bits::Group => {
                let changed = word.group1 ^ value;
                word.group1 = value;
                changed
            }
            Bits::SetEnable => {
                word.enabled |= value;
                value
            }
            Bits::ClearEnable => {
                word.enabled &= !value;
                value
            }
            Bits::SetPending => {
                word.latch |= writable;
                if w == 0 {
                    for sgi in bits(writable & 0xffff) {
                        self.vcpus[vcpu].sgi_pending[sgi] |= 1;
                    }
                }
                writable
            }
            Bits::ClearPending => return self.clear_pending(vcpu, w, writable),
            Bits::SetActive => {
                word.active |= value;
                value
            }
            Bits::ClearActive => return self.clear_active(vcpu, w, value),
        };
        self.touch(vcpu, w, changed)
    }

    /// GICD_CTLR's group enables.
    pub(crate) fn read_groups(&self) -> u64 {
        u64::from(self.groups.group0) | u64::from(self.groups.group1) << 1
    }

    /// Writes GICD_CTLR's group enables. They concern every interrupt of every vCPU.
    pub(crate) fn write_groups(&mut self, value: u64) -> Effects {
        let groups = Groups { group0: value & 1 != 0, group1: value & 2 != 0 };
        if groups == self.groups {
            return Effects::NONE;
        }
        self.groups = groups;
        let vcpus = self.vcpus.len();
        (0..vcpus).for_each(|vcpu| self.attend_all(vcpu));
        Effects { kick: VcpuSet::first(vcpus), deactivate: false }
    }

    /// Takes into the state of `vcpu` what was posted to it, before a register shows or changes that. Nobody need be kicked: whoever
    /// posted it has.
    #[inline(never)]
    pub fn absorb(&mut self, vcpu: usize, posted: &Posted) {
        for first in HALVES {
            let sent = posted.take(first);
            if sent != 0 {
                let _ = self.add_sgis(vcpu, first, sent);
            }
        }
    }

    /// Makes SGIs pending: a byte of `sent` each, from `first` on, as [`Posted`] has them.
    pub(crate) fn add_sgis(&mut self, vcpu: usize, first: usize, mut sent: u64) -> Effects {
        let index = self.index(vcpu, 0);
        let (this, word) = (&mut self.vcpus[vcpu], &mut self.state[index]);
        let mut sgis = 0;
        while sent != 0 {
            let (byte, sgi) =
                (sent.trailing_zeros() / 8, (first + sent.trailing_zeros() as usize / 8) % SGIS);
            let senders = match self.version {
                Version::V2 => (sent >> (8 * byte)) as u8,
                // The group has to be the one that was meant.
                Version::V3 => (sent >> (8 * byte) >> (!word.group1 >> sgi & 1)) as u8 & 1,
            };
            sent &= !(0xff << (8 * byte));
            this.sgi_pending[sgi] |= senders;
            sgis |= u32::from(senders != 0) << sgi;
        }
        word.latch |= sgis;
        if sgis.is_power_of_two() { self.raise(vcpu, 0, sgis) } else { self.touch(vcpu, 0, sgis) }
    }
}
