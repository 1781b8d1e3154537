//! The virtual CPU interface: which interrupts are in the list registers, and what comes back from there.

use crate::lr::{Control, ListRegisters, Lr, State};
use crate::state::{Groups, bits};
use crate::{Effects, LIST_REGISTERS_MAX, Vgic};

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
        CpuMask {
            pmr: (vmcr >> 27 << 3) as u8,
            groups: enables(vmcr),
        }
    }

    /// From ICH_VMCR_EL2 (Arm IHI 0069H, section 12.4): VPMR, VENG0, VENG1.
    pub const fn from_gicv3_vmcr(vmcr: u64) -> CpuMask {
        CpuMask {
            pmr: (vmcr >> 24) as u8,
            groups: enables(vmcr as u32),
        }
    }
}

const fn enables(vmcr: u32) -> Groups {
    Groups {
        group0: vmcr & 1 != 0,
        group1: vmcr & 2 != 0,
    }
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
        self.vcpus[vcpu].attention = self.all_words();
    }

    /// Brings the list registers of the CPU that has `vcpu` loaded up to date, before the guest is entered. Does
    /// nothing unless something changed.
    pub fn enter(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        if !self.needs_enter(vcpu) {
            return Effects::NONE;
        }
        let old = self.vcpus[vcpu].control;
        let mut effects = Effects::NONE;
        if old != Control::default() {
            self.vcpus[vcpu].attention = self.all_words();
        }
        let eois = if old.active_spilled { hw.eoi_count() } else { 0 };
        effects |= self.end_spilled(vcpu, eois);

        // Take back what the guest has finished and what has changed. What it finished may concern other words.
        let empty = hw.empty();
        let words = self.vcpus[vcpu].attention;
        let mut stale = 0;
        for n in bits(self.vcpus[vcpu].used.into()) {
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
            for n in bits(self.vcpus[vcpu].used.into()) {
                let state = if kept >> n & 1 != 0 {
                    hw.read(n).state
                } else {
                    self.vcpus[vcpu].lrs[n].state
                };
                effects |= self.unlist(vcpu, n, state);
            }
            stale |= core::mem::take(&mut kept);
            self.vcpus[vcpu].attention = 0;
            control = self.fill(vcpu, self.all_words(), true);
        }

        let state = &mut self.vcpus[vcpu];
        state.control = control;
        for n in bits(((state.used | stale) & !kept).into()) {
            hw.write(
                n,
                if state.used >> n & 1 != 0 {
                    state.lrs[n]
                } else {
                    Lr::EMPTY
                },
            );
        }
        if control != old || eois != 0 {
            hw.set_control(control);
        }
        effects.deactivate |= state.private.orphans() != 0 || self.orphans != 0;
        effects.kick = effects.kick.without(vcpu);
        effects
    }

    /// Takes everything back from the list registers of the CPU that has `vcpu` loaded, and leaves them empty.
    pub fn exit(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        let control = core::mem::take(&mut self.vcpus[vcpu].control);
        let mut effects = Effects::NONE;
        if control != Control::default() {
            let eois = if control.active_spilled { hw.eoi_count() } else { 0 };
            effects |= self.end_spilled(vcpu, eois);
            self.vcpus[vcpu].attention = self.all_words();
            hw.set_control(Control::default());
        }
        let used = self.vcpus[vcpu].used;
        let empty = if used != 0 { hw.empty() } else { 0 };
        for n in bits(used.into()) {
            let state = if empty >> n & 1 != 0 {
                State::INACTIVE
            } else {
                hw.read(n).state
            };
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
            word.most_urgent(ready, 0, 32)
                .is_some_and(|(level, _)| level << 3 < mask.pmr.into())
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

    /// Fills free list registers from the given words, and tells what found none. `crowded`: some probably will not. The most urgent pending interrupt
    /// comes first, so that it can preempt, then active ones, whose end needs no exit then, then the other pending ones.
    fn fill(&mut self, vcpu: usize, words: u32, crowded: bool) -> Control {
        let mut control = Control::default();
        for (kind, most) in [
            (Kind::Pending, 1),
            (Kind::Active, LIST_REGISTERS_MAX + 1),
            (Kind::Pending, LIST_REGISTERS_MAX + 1),
        ] {
            let mut from = 0;
            for _ in 0..most {
                let Some((level, intid)) = self.most_urgent(vcpu, words, kind, from) else {
                    break;
                };
                if !self.list(vcpu, intid, crowded) {
                    match kind {
                        Kind::Pending => control.pending_spilled = true,
                        Kind::Active => control.active_spilled = true,
                    }
                    break;
                }
                from = level;
            }
        }
        control
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
        let free = self.lr_mask & !self.vcpus[vcpu].used;
        if free == 0 {
            return false;
        }
        let (n, w, bit) = (free.trailing_zeros() as usize, intid / 32, 1u32 << (intid % 32));
        let (groups, sgi) = (self.groups, intid < crate::SGIS);
        let target = self.vcpus[vcpu].targets[w] & bit != 0;
        let (senders, source) = if sgi {
            (
                self.vcpus[vcpu].sgi_pending[intid],
                self.vcpus[vcpu].sgi_source[intid],
            )
        } else {
            (0, 0)
        };

        let word = self.word_mut(vcpu, w);
        let active = word.active & bit != 0;
        let source = if active || !sgi {
            source
        } else {
            senders.trailing_zeros() as u8
        };
        let signalled = word.pending() & word.enabled & word.in_groups(groups) & bit != 0 && target;
        // An active interrupt becomes pending as well in its register if that is the same event again. A mapped one
        // cannot (Arm IHI 0069H, section 12.4, ICH_LR<n>_EL2.State), and if pending ones are spilled none does: it is
        // not deliverable, but hardware may count it as pending and keep back the maintenance interrupt of NPIE.
        let again =
            !crowded && word.latch & bit != 0 && word.owed & bit == 0 && (!sgi || senders >> source & 1 != 0);
        let state = State {
            pending: signalled && (!active || again),
            active,
        };
        let latched = state.pending && word.latch & bit != 0;
        if latched && senders & !(1 << source) == 0 {
            word.latch &= !bit;
        }
        let more = word.pending() & word.enabled & word.in_groups(groups) & bit != 0;
        let hw = (word.owed & bit != 0 && !more).then_some(word.pintid[intid % 32]);
        word.owed &= if hw.is_some() { !bit } else { !0 };
        word.active &= !bit;
        word.lr_pending |= if state.pending { bit } else { 0 };
        word.lr_active |= if active { bit } else { 0 };
        let lr = Lr {
            vintid: intid as u16,
            state,
            priority: word.priority[intid % 32],
            group1: word.group1 & bit != 0,
            hw,
            eoi: more,
            source,
        };

        let state = &mut self.vcpus[vcpu];
        if latched && sgi {
            state.sgi_pending[intid] &= !(1 << source);
        }
        state.lrs[n] = lr;
        state.used |= 1 << n;
        state.latched = state.latched & !(1 << n) | u16::from(latched) << n;
        true
    }

    /// Takes the interrupt of list register `n`, which is in `state` now, back into the distributor.
    fn unlist(&mut self, vcpu: usize, n: usize, state: State) -> Effects {
        let Lr {
            vintid, hw, source, ..
        } = self.vcpus[vcpu].lrs[n];
        let (intid, w, bit) = (usize::from(vintid), usize::from(vintid) / 32, 1 << (vintid % 32));
        let latched = self.vcpus[vcpu].latched >> n & 1 != 0;
        self.vcpus[vcpu].used &= !(1 << n);

        let word = self.word_mut(vcpu, w);
        let pending = state.pending && latched && word.drop_pending & bit == 0;
        let active = state.active && word.drop_active & bit == 0;
        word.lr_pending &= !bit;
        word.lr_active &= !bit;
        word.drop_pending &= !bit;
        word.drop_active &= !bit;
        word.latch |= if pending { bit } else { 0 };
        word.active |= if active { bit } else { 0 };
        // A register that the guest emptied has deactivated the physical interrupt itself.
        word.owed |= if hw.is_some() && state != State::INACTIVE {
            bit
        } else {
            0
        };
        if intid < crate::SGIS {
            let vcpu = &mut self.vcpus[vcpu];
            vcpu.sgi_pending[intid] |= if pending { 1 << source } else { 0 };
            vcpu.sgi_source[intid] = if active { source } else { vcpu.sgi_source[intid] };
        }
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
