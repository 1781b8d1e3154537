//! The virtual CPU interface: which interrupts are in the list registers, and what comes back from there.

use crate::lr::{Control, ListRegisters, Lr, State};
use crate::state::{Groups, bits};
use crate::{Effects, Vgic};

/// What a virtual CPU interface lets through to its vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMask {
    /// Only interrupts of a lower value than this priority mask.
    pub pmr: u8,
    /// Only these groups.
    pub groups: Groups,
}

impl CpuMask {
    /// From GICH_VMCR (Arm IHI 0048B, section 5.3): VMPriMask, VMGrp0En, VMGrp1En.
    pub const fn from_gicv2_vmcr(vmcr: u32) -> CpuMask {
        CpuMask { pmr: (vmcr >> 27 << 3) as u8, groups: enables(vmcr) }
    }

    /// From ICH_VMCR_EL2 (Arm IHI 0069H, section 12.4): VPMR, VENG0, VENG1.
    pub const fn from_gicv3_vmcr(vmcr: u64) -> CpuMask {
        CpuMask { pmr: (vmcr >> 24) as u8, groups: enables(vmcr as u32) }
    }
}

const fn enables(vmcr: u32) -> Groups {
    Groups { group0: vmcr & 1 != 0, group1: vmcr & 2 != 0 }
}

/// Which interrupts are looked for.
#[derive(Clone, Copy)]
enum Kind {
    Pending,
    Active,
}

impl Vgic {
    /// Whether [`Vgic::enter`] has something to do for `vcpu`.
    pub fn needs_enter(&self, vcpu: usize) -> bool {
        self.vcpus[vcpu].attention != 0
    }

    /// The maintenance interrupt of the CPU that has `vcpu` loaded.
    pub fn maintenance(&mut self, vcpu: usize) {
        self.attend_all(vcpu);
    }

    /// Brings the list registers of the CPU that has `vcpu` loaded up to date, before the guest is entered. Does
    /// nothing unless something changed.
    pub fn enter(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        if !self.needs_enter(vcpu) {
            return Effects::NONE;
        }
        if let Some(intid) = self.vcpus[vcpu].raised
            && self.rearm(vcpu, intid, hw)
        {
            self.vcpus[vcpu].attention = 0;
            return Effects::NONE;
        }
        let old = self.vcpus[vcpu].control;
        let mut effects = Effects::NONE;
        if old != Control::default() {
            self.attend_all(vcpu);
        }
        let eois = if old.active_spilled { hw.eoi_count() } else { 0 };
        effects |= self.end_spilled(vcpu, eois);

        // Take back what the guest has finished and what has changed. What it finished may concern other words.
        let empty = hw.empty();
        let words = self.vcpus[vcpu].attention;
        let mut stale = 0;
        for n in bits(self.vcpus[vcpu].used) {
            if empty >> n & 1 != 0 {
                effects |= self.unlist(vcpu, n, State::INACTIVE);
            } else if words >> (self.vcpus[vcpu].lrs[n].vintid / 32) & 1 != 0 {
                stale |= 1 << n;
                effects |= self.unlist(vcpu, n, hw.read(n).state);
            }
        }

        let mut kept = self.vcpus[vcpu].used;
        let words = core::mem::take(&mut self.vcpus[vcpu].attention);
        let crowded = old != Control::default();
        let mut control = self.fill(vcpu, words, crowded);
        if control != Control::default() && !crowded {
            // Not enough list registers: let everything compete for them.
            for n in bits(self.vcpus[vcpu].used) {
                let state = if kept >> n & 1 != 0 { hw.read(n).state } else { self.vcpus[vcpu].lrs[n].state };
                effects |= self.unlist(vcpu, n, state);
            }
            stale |= core::mem::take(&mut kept);
            self.vcpus[vcpu].attention = 0;
            control = self.fill(vcpu, self.all_words(), true);
        }

        let state = &mut self.vcpus[vcpu];
        state.control = control;
        for n in bits((state.used | stale) & !kept) {
            let listed = state.used >> n & 1 != 0;
            hw.write(n, if listed { state.lrs[n] } else { Lr::EMPTY });
        }
        if control != old || eois != 0 {
            hw.set_control(control);
        }
        effects.deactivate |= self.orphans != 0 || self.word(vcpu, 0).orphans() != 0;
        effects.kick = effects.kick.without(vcpu);
        effects
    }

    /// The usual case: an interrupt is pending again, and that is all, whose list register the guest has emptied.
    /// Whatever else it was listed with still holds, or more than this interrupt would call for attention.
    fn rearm(&mut self, vcpu: usize, intid: u16, hw: &mut impl ListRegisters) -> bool {
        let (index, bit, sgi) =
            (self.index(vcpu, usize::from(intid) / 32), 1 << (intid % 32), usize::from(intid));
        let (this, word) = (&mut self.vcpus[vcpu], &mut self.state[index]);
        let Some(n) = bits(this.used).find(|&n| this.lrs[n].vintid == intid) else {
            return false;
        };
        let lr = this.lrs[n];
        let latch_only =
            word.latch & !(word.active | word.drop_pending | word.drop_active | word.line & !word.edge) & bit;
        if latch_only == 0
            || lr.state != State::PENDING
            || lr.hw.is_some() != (word.owed & bit != 0)
            || sgi < crate::SGIS && this.sgi_pending[sgi] != 1 << lr.source
            || this.control != Control::default()
            || hw.empty() >> n & 1 == 0
        {
            return false;
        }
        word.latch &= !bit;
        word.owed &= !bit;
        if sgi < crate::SGIS {
            this.sgi_pending[sgi] = 0;
        }
        this.latched |= 1 << n;
        hw.write(n, lr);
        true
    }

    /// Takes everything back from the list registers of the CPU that has `vcpu` loaded, and leaves them empty.
    pub fn exit(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        let control = core::mem::take(&mut self.vcpus[vcpu].control);
        let mut effects = Effects::NONE;
        if control != Control::default() {
            let eois = if control.active_spilled { hw.eoi_count() } else { 0 };
            effects |= self.end_spilled(vcpu, eois);
            self.attend_all(vcpu);
            hw.set_control(Control::default());
        }
        let used = self.vcpus[vcpu].used;
        let empty = if used != 0 { hw.empty() } else { 0 };
        for n in bits(used) {
            let state = if empty >> n & 1 != 0 { State::INACTIVE } else { hw.read(n).state };
            effects |= self.unlist(vcpu, n, state);
            if empty >> n & 1 == 0 {
                hw.write(n, Lr::EMPTY);
            }
        }
        effects.kick = effects.kick.without(vcpu);
        effects
    }

    /// Whether an interrupt would be signalled to `vcpu` through a CPU interface that lets `mask` through: ends a WFI.
    /// To be asked after [`Vgic::exit`]. Interrupts that only the running priority holds back count.
    pub fn deliverable(&self, vcpu: usize, mask: CpuMask) -> bool {
        (0..self.words()).any(|w| {
            let word = self.word(vcpu, w);
            let ready = self.candidates(vcpu, w, Kind::Pending) & word.in_groups(mask.groups);
            word.most_urgent(ready, 0, 32).is_some_and(|(level, _)| level << 3 < mask.pmr.into())
        })
    }

    /// A trapped write of `intid` to the virtual DIR register (GICV_DIR, ICC_DIR_EL1) of `vcpu`, which traps while
    /// [`Control::active_spilled`] is set and has EOImode = 1.
    pub fn dir(&mut self, vcpu: usize, intid: u32) -> Effects {
        let w = intid as usize / 32;
        if intid as usize >= crate::INTID_LIMIT || w >= self.words() {
            return Effects::NONE;
        }
        self.clear_active(vcpu, w, 1 << (intid % 32))
    }

    /// Fills free list registers from the given words, and tells what found none. `crowded`: some probably will not. The
    /// most urgent pending interrupt comes first, so that it can preempt, then active ones, whose end needs no exit then,
    /// then the other pending ones.
    fn fill(&mut self, vcpu: usize, words: u32, crowded: bool) -> Control {
        let (mut pending, mut active) = (0, 0);
        for w in bits(words) {
            pending |= u32::from(self.candidates(vcpu, w, Kind::Pending) != 0) << w;
            active |= u32::from(self.candidates(vcpu, w, Kind::Active) != 0) << w;
        }
        let mut control = Control::default();
        if pending != 0 {
            let most = if active != 0 { 1 } else { usize::MAX };
            control.pending_spilled = self.list_most_urgent(vcpu, pending, Kind::Pending, most, crowded);
        }
        if active != 0 {
            control.active_spilled = self.list_most_urgent(vcpu, active, Kind::Active, usize::MAX, crowded);
            control.pending_spilled |=
                self.list_most_urgent(vcpu, pending, Kind::Pending, usize::MAX, crowded);
        }
        control
    }

    /// Lists up to `most` interrupts of a kind in order of priority, and tells whether one found no list register.
    fn list_most_urgent(&mut self, vcpu: usize, words: u32, kind: Kind, most: usize, crowded: bool) -> bool {
        let mut from = 0;
        for _ in 0..most {
            let Some((level, intid)) = self.most_urgent(vcpu, words, kind, from) else {
                break;
            };
            if !self.list(vcpu, intid, crowded) {
                return true;
            }
            from = level;
        }
        false
    }

    fn candidates(&self, vcpu: usize, w: usize, kind: Kind) -> u32 {
        let word = self.word(vcpu, w);
        let set = match kind {
            Kind::Pending => word.ready(self.groups),
            Kind::Active => word.unlisted_active(),
        };
        set & self.vcpus[vcpu].home[w]
    }

    /// The most urgent interrupt of a kind, of a level from `from` on: its level and INTID.
    fn most_urgent(&self, vcpu: usize, words: u32, kind: Kind, from: usize) -> Option<(usize, usize)> {
        let mut best = None;
        for w in bits(words) {
            let candidates = self.candidates(vcpu, w, kind);
            if candidates != 0 {
                let below = best.map_or(32, |(level, _)| level);
                if let Some((level, bit)) = self.word(vcpu, w).most_urgent(candidates, from, below) {
                    best = Some((level, w * 32 + bit));
                }
            }
        }
        best
    }

    /// Puts a pending or active interrupt into a free list register, if there is one.
    ///
    /// A pending latch moves into the register. If the interrupt is still pending after that (an asserted level line,
    /// another sender of an SGI, a latch that could not move) its end must come to our notice: EOI maintenance.
    fn list(&mut self, vcpu: usize, intid: usize, crowded: bool) -> bool {
        let index = self.index(vcpu, intid / 32);
        let (this, word) = (&mut self.vcpus[vcpu], &mut self.state[index]);
        let free = self.lr_mask & !this.used;
        if free == 0 {
            return false;
        }
        let (n, bit, sgi) = (free.trailing_zeros() as usize, 1u32 << (intid % 32), intid < crate::SGIS);
        let deliverable = word.enabled & word.in_groups(self.groups) & bit;
        let active = word.active & bit != 0;
        let (senders, source) = match sgi {
            true if active => (this.sgi_pending[intid], this.sgi_source[intid]),
            true => (this.sgi_pending[intid], this.sgi_pending[intid].trailing_zeros() as u8),
            false => (0, 0),
        };
        // An active interrupt becomes pending as well in its register if that is the same event again. A mapped one
        // cannot (Arm IHI 0069H, section 12.4, ICH_LR<n>_EL2.State), and if pending ones are spilled none does: it is
        // not deliverable, but hardware may count it as pending and keep back the maintenance interrupt of NPIE.
        let again = || !crowded && word.latch & !word.owed & bit != 0 && (!sgi || senders >> source & 1 != 0);
        let pending = word.pending() & deliverable & this.targets[intid / 32] != 0 && (!active || again());
        let latched = pending && word.latch & bit != 0;
        if latched {
            let left = senders & !(1 << source);
            word.latch &= !(u32::from(left == 0) << (intid % 32));
            if sgi {
                this.sgi_pending[intid] = left;
            }
        }
        let more = word.pending() & deliverable != 0;
        let hw = (word.owed & bit != 0 && !more).then_some(word.pintid[intid % 32]);
        word.owed &= !(u32::from(hw.is_some()) << (intid % 32));
        word.active &= !bit;
        word.lr_pending |= u32::from(pending) << (intid % 32);
        word.lr_active |= u32::from(active) << (intid % 32);
        this.lrs[n] = Lr {
            vintid: intid as u16,
            state: State { pending, active },
            priority: word.priority[intid % 32],
            group1: word.group1 & bit != 0,
            hw,
            eoi: more,
            source,
        };
        this.used |= 1 << n;
        this.latched = this.latched & !(1 << n) | u16::from(latched) << n;
        true
    }

    /// Takes the interrupt of list register `n`, which is in `state` now, back into the distributor.
    fn unlist(&mut self, vcpu: usize, n: usize, state: State) -> Effects {
        let Lr { vintid, hw, source, .. } = self.vcpus[vcpu].lrs[n];
        let (intid, w, bit) = (usize::from(vintid), usize::from(vintid) / 32, 1 << (vintid % 32));
        let index = self.index(vcpu, w);
        let (this, word) = (&mut self.vcpus[vcpu], &mut self.state[index]);
        this.used &= !(1 << n);
        word.lr_pending &= !bit;
        word.lr_active &= !bit;
        // A register that the guest emptied has deactivated the physical interrupt itself.
        if state != State::INACTIVE {
            if state.pending && this.latched >> n & 1 != 0 && word.drop_pending & bit == 0 {
                word.latch |= bit;
                if intid < crate::SGIS {
                    this.sgi_pending[intid] |= 1 << source;
                }
            }
            if state.active && word.drop_active & bit == 0 {
                word.active |= bit;
                if intid < crate::SGIS {
                    this.sgi_source[intid] = source;
                }
            }
            word.owed |= u32::from(hw.is_some()) << (vintid % 32);
        }
        word.drop_pending &= !bit;
        word.drop_active &= !bit;
        self.touch(vcpu, w, bit)
    }

    /// Deactivates spilled interrupts whose EOI found no list register. With EOImode = 0, which alone comes here, a
    /// guest ends the most urgent one first.
    fn end_spilled(&mut self, vcpu: usize, eois: u8) -> Effects {
        let mut effects = Effects::NONE;
        for _ in 0..eois {
            let Some((_, intid)) = self.most_urgent(vcpu, self.all_words(), Kind::Active, 0) else {
                break;
            };
            effects |= self.clear_active(vcpu, intid / 32, 1 << (intid % 32));
        }
        effects
    }
}
