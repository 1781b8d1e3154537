//! The virtual CPU interface: which interrupts are in the list registers, and what comes back from there.

use crate::lr::{Control, ListRegisters, Lr, State};
use crate::sgi::Posted;
use crate::state::{Groups, bits};
use crate::{Effects, LIST_REGISTERS_MAX, MORE, NOT_MAPPED, VcpuSet, Version, Vgic};

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

/// The most active interrupts that get list registers again at a time: of those that a guest nests, one ends first. Few, so that a guest
/// that makes many active by register writes does not keep EL2 busy.
const LISTED_ACTIVE: usize = 1;
/// What one [`Vgic::enter`] does at most, in which EL2 is not interrupted: so many looks at a word, or moves; after one interrupt was
/// listed there is no other. Not counted are ends of spilled interrupts, of which there is more than one only if the maintenance
/// interrupt comes late; they have a step of their own.
const EFFORT: usize = 4;
/// Of that, a move of one interrupt into a list register, or out of one unless the guest has ended it.
const MOVE: usize = 2;
/// Where both encodings of a list register have the INTID.
const VINTID: u16 = 0x3ff;

impl Vgic {
    /// Whether [`Vgic::enter`] has something to do for `vcpu`.
    pub fn needs_enter(&self, vcpu: usize) -> bool {
        self.vcpus[vcpu].attention != 0
    }

    /// The maintenance interrupt of the CPU that has `vcpu` loaded, and [`Vgic::enter`] in one.
    pub fn maintenance(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        self.vcpus[vcpu].attention |= MORE;
        self.update(vcpu, hw)
    }

    /// Whether nothing is pending or active for `vcpu`, which this CPU has loaded and whose list registers are up to date: it may
    /// sleep with them as they are.
    pub fn is_quiet(&self, vcpu: usize, hw: &impl ListRegisters) -> bool {
        let this = &self.vcpus[vcpu];
        // One that was written or seen as active would go on reading as active.
        let pending = |n: usize| this.lrs[n].state == State::PENDING;
        this.attention == 0
            && this.control == Control::default()
            && (this.used == 0 || this.used & !hw.empty() == 0 && bits(this.used).all(pending))
    }

    /// [`Vgic::absorb`] and [`Vgic::enter`] in one, if nothing was posted, or one SGI whose list register can be written again. Else only
    /// the former, and `None`: the latter has to follow, and is a long step of its own.
    #[inline(always)]
    pub fn deliver(&mut self, vcpu: usize, posted: &Posted, hw: &mut impl ListRegisters) -> Option<Effects> {
        if let Some(first) = posted.first() {
            let sent = posted.take(first);
            if self.repeat(vcpu, first, sent, hw) {
                return Some(Effects::NONE);
            }
            let _ = self.add_sgis(vcpu, first, sent);
            return None;
        }
        if !posted.is_empty() {
            self.absorb(vcpu, posted);
            return None;
        }
        Some(self.enter(vcpu, hw))
    }

    /// Brings the list registers of the CPU that has `vcpu` loaded up to date, before the guest is entered. Does
    /// nothing unless something changed. If that is long it is done in steps: `vcpu` is among those to kick, and this has to follow again.
    #[inline(always)]
    pub fn enter(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        if self.needs_enter(vcpu) { self.attend_to(vcpu, hw) } else { Effects::NONE }
    }

    #[inline(never)]
    fn attend_to(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        let this = &self.vcpus[vcpu];
        if this.attention >= MORE {
            return self.update(vcpu, hw);
        }
        let intid = (this.attention.trailing_zeros() * 32 + this.changed.trailing_zeros()) as u16;
        let alone = this.attention.is_power_of_two()
            && this.changed.is_power_of_two()
            && match bits(this.used).find(|&n| this.lrs[n].vintid == intid) {
                Some(n) => self.rearm(vcpu, n, hw),
                None => self.list_alone(vcpu, intid, hw),
            };
        if alone {
            self.vcpus[vcpu].attention = 0;
            return Effects::NONE;
        }
        self.update(vcpu, hw)
    }

    #[inline(never)]
    fn update(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        let old = self.vcpus[vcpu].control;
        let eois = if old.active_spilled { hw.eoi_count() } else { 0 };
        if eois != 0 {
            let mut effects = self.end_spilled(vcpu, eois, hw);
            hw.set_control(old);
            effects.kick.0 |= 1 << vcpu;
            return effects;
        }

        // Take back what the guest has finished and what has changed, and what must not stay if others wait ([`Vgic::list`]).
        let this = &self.vcpus[vcpu];
        let (used, words, changes) = (this.used, this.attention, this.changed);
        let empty = if used != 0 { hw.empty() } else { 0 };
        let (mut left, mut effects) = (EFFORT, Effects::NONE);
        for n in bits(used) {
            let Lr { vintid, state, eoi, .. } = self.vcpus[vcpu].lrs[n];
            let changed = words >> (vintid / 32) & u64::from(changes >> (vintid % 32)) & 1 != 0;
            if empty >> n & 1 != 0 && left > 0 {
                effects |= self.unlist(vcpu, n, State::INACTIVE);
                left -= 1;
            } else if (changed || state.pending && state.active || eoi && hw.state(n) == State::INACTIVE)
                && left >= MOVE
            {
                effects |= self.unlist(vcpu, n, hw.state(n));
                left -= MOVE;
            }
        }
        // With less left some may be listed still that have ended or changed: the next step goes on with those.
        let kept = self.vcpus[vcpu].used;
        let mut evicted = 0;
        // Until all of this step's and earlier ones' words were looked at it is about more than one interrupt.
        self.vcpus[vcpu].attention |= MORE;
        if left > MOVE {
            self.survey(vcpu, &mut left);
            if self.vcpus[vcpu].attention == MORE {
                self.vcpus[vcpu].attention = 0;
                evicted = self.list_pending(vcpu, kept, &mut left, &mut effects, hw);
            }
            if !self.needs_enter(vcpu) {
                self.list_active(vcpu, left);
            }
        }

        let state = &mut self.vcpus[vcpu];
        let control = Control {
            // Not between two steps: none may be listed yet, and the maintenance interrupt for that would come before the next step.
            pending_spilled: state.spilled_pending != 0 && state.attention == 0,
            active_spilled: state.spilled_active != 0,
        };
        state.control = control;
        if control != Control::default() {
            // A mapped interrupt that fires has to compete as well.
            state.mapped = NOT_MAPPED;
        }
        for n in bits((state.used | used & !empty) & !(kept & !evicted)) {
            hw.write(n, if state.used >> n & 1 != 0 { state.written[n] } else { 0 });
        }
        if control != old {
            hw.set_control(control);
        }
        effects.deactivate |= self.orphans != 0 || self.word(vcpu, 0).orphans() != 0;
        effects.kick = VcpuSet(effects.kick.without(vcpu).0 | u64::from(self.needs_enter(vcpu)) << vcpu);
        effects
    }

    /// Looks at the words that call for attention, as many as are `left`, for interrupts that want a list register.
    #[inline(never)]
    fn survey(&mut self, vcpu: usize, left: &mut usize) {
        for w in bits(self.vcpus[vcpu].attention as u32).take(*left) {
            *left -= 1;
            self.vcpus[vcpu].attention &= !(1 << w);
            let index = self.index(vcpu, w);
            let (this, word) = (&mut self.vcpus[vcpu], &self.state[index]);
            let (ready, active) =
                (word.ready(self.groups) & this.home[w], word.unlisted_active() & this.home[w]);
            this.spilled_active = this.spilled_active & !(1 << w) | u32::from(active != 0) << w;
            this.spilled_pending = this.spilled_pending & !(1 << w) | u32::from(ready != 0) << w;
            if let Some((priority, _)) = word.priorities.most_urgent(ready)
                && priority != this.waiting.of[w]
            {
                this.waiting.set(w, priority);
            }
        }
    }

    /// Takes the most urgent pending interrupt that waits for a list register, which it is to get now.
    #[inline]
    fn take_most_urgent(&mut self, vcpu: usize) -> Option<usize> {
        loop {
            let this = &self.vcpus[vcpu];
            let (known, w) = this.waiting.most_urgent(this.spilled_pending)?;
            let index = self.index(vcpu, w);
            let (this, word) = (&mut self.vcpus[vcpu], &self.state[index]);
            let ready = word.ready(self.groups) & this.home[w];
            let Some((priority, bit)) = word.priorities.most_urgent(ready) else {
                this.spilled_pending &= !(1 << w);
                continue;
            };
            if priority == known {
                this.spilled_pending &= !(u32::from(ready.is_power_of_two()) << w);
                return Some(w * 32 + bit);
            }
            // What this was known from is gone. Another word may have more urgent ones.
            this.waiting.set(w, priority);
        }
    }

    /// The physical interrupt behind the mapped `intid` fired on the CPU that has `vcpu` loaded, its priority was dropped and it was
    /// left active: [`Vgic::line`] and [`Vgic::enter`] in one.
    #[inline(always)]
    pub fn fire(&mut self, vcpu: usize, intid: u16, hw: &mut impl ListRegisters) -> Effects {
        let this = &self.vcpus[vcpu];
        let n = usize::from(this.mapped);
        // The usual case. Nobody's attention is called, so the interrupt has no other state than in its list register; and the guest
        // has emptied that, or the physical interrupt could not have fired.
        match this.written.get(n) {
            Some(&value) if this.attention == 0 && value as u16 & VINTID == intid => {
                debug_assert!(hw.empty() >> n & 1 != 0);
                debug_assert!(self.is_nowhere_else(vcpu, intid));
                self.vcpus[vcpu].ended = 0;
                hw.write(n, value);
                Effects::NONE
            }
            _ => self.fire_anew(vcpu, intid, hw),
        }
    }

    #[inline(never)]
    fn fire_anew(&mut self, vcpu: usize, intid: u16, hw: &mut impl ListRegisters) -> Effects {
        if self.fire_alone(vcpu, intid, hw) {
            return Effects::NONE;
        }
        let mut effects = self.line(vcpu, intid, true);
        effects.kick = effects.kick.without(vcpu);
        effects |= self.enter(vcpu, hw);
        effects
    }

    /// The case of a vCPU that was loaded a moment ago: nothing else is to be done for it, and a list register is free.
    #[inline]
    fn fire_alone(&mut self, vcpu: usize, intid: u16, hw: &mut impl ListRegisters) -> bool {
        let (w, n, bit) = (usize::from(intid) / 32, usize::from(intid) % 32, 1 << (intid % 32));
        let index = self.index(vcpu, w);
        let (this, word) = (&mut self.vcpus[vcpu], &mut self.state[index]);
        let free = self.lr_mask & !this.used;
        let deliverable =
            word.enabled & word.in_groups(self.groups) & this.home[w] & this.targets[w] & word.mapped;
        let known = word.latch | word.busy() | word.owed;
        if this.attention != 0
            || this.control != Control::default()
            || free == 0
            || deliverable & !known & bit == 0
        {
            return false;
        }
        let lr = Lr {
            vintid: intid,
            state: State::PENDING,
            priority: word.priorities.of[n],
            group1: word.group1 & bit != 0,
            hw: Some(word.pintid[n]),
            ..Lr::EMPTY
        };
        let n = free.trailing_zeros() as usize % LIST_REGISTERS_MAX;
        word.lr_pending |= bit;
        this.used |= 1 << n;
        this.latched |= 1 << n;
        this.mapped = n as u8;
        this.set(n, lr, self.version);
        hw.write(n, this.written[n]);
        true
    }

    /// Whether the listed interrupt `intid` has no state that would be merged when it is folded.
    fn is_nowhere_else(&self, vcpu: usize, intid: u16) -> bool {
        let word = self.word(vcpu, usize::from(intid) / 32);
        let elsewhere = word.latch | word.active | word.owed | word.drop_pending | word.drop_active;
        elsewhere & 1 << (intid % 32) == 0
    }

    /// The usual case of what was posted: one SGI, and that is all, whose list register the guest has emptied.
    #[inline(always)]
    fn repeat(&mut self, vcpu: usize, first: usize, sent: u64, hw: &mut impl ListRegisters) -> bool {
        const ANY: Lr = Lr { priority: 0xff, group1: true, ..Lr::EMPTY };
        const ANY_V3: Lr = Lr { group1: false, ..ANY };
        let this = &mut self.vcpus[vcpu];
        let bit = sent.trailing_zeros() as u8;
        let lr = Lr { vintid: first as u16 + u16::from(bit / 8), state: State::PENDING, ..Lr::EMPTY };
        // What it was written with then. If its priority had changed, or its group in GICv2, attention would have been called.
        let (value, mask) = match self.version {
            Version::V2 => (Lr { source: bit % 8, ..lr }.to_gicv2().into(), !u64::from(ANY.to_gicv2())),
            Version::V3 => (Lr { group1: bit.is_multiple_of(8), ..lr }.to_gicv3(), !ANY_V3.to_gicv3()),
        };
        let Some(n) = bits(this.used).find(|&n| (this.written[n] ^ value) & mask == 0) else {
            return false;
        };
        if !sent.is_power_of_two()
            || this.attention != 0
            || this.control != Control::default()
            || hw.empty() >> n & 1 == 0
        {
            return false;
        }
        this.latched |= 1 << n;
        this.ended &= !(1 << n);
        hw.write(n, this.written[n]);
        // Nobody's attention is called, so it has no other state than in its list register.
        debug_assert!(self.is_nowhere_else(vcpu, lr.vintid));
        true
    }

    /// The usual case: the interrupt of list register `n` is pending again, and that is all, and the guest has emptied the register.
    /// Whatever else it was listed with still holds, or more than this interrupt would call for attention.
    fn rearm(&mut self, vcpu: usize, n: usize, hw: &mut impl ListRegisters) -> bool {
        let lr = self.vcpus[vcpu].lrs[n];
        let (bit, sgi) = (1 << (lr.vintid % 32), usize::from(lr.vintid));
        let index = self.index(vcpu, sgi / 32);
        let (this, word) = (&mut self.vcpus[vcpu], &mut self.state[index]);
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
        this.ended &= !(1 << n);
        if lr.hw.is_some() {
            this.mapped = n as u8;
        }
        hw.write(n, this.written[n]);
        true
    }

    /// The usual case of one that is in no list register, while one is free.
    fn list_alone(&mut self, vcpu: usize, intid: u16, hw: &mut impl ListRegisters) -> bool {
        let w = usize::from(intid) / 32;
        let this = &self.vcpus[vcpu];
        let n = (self.lr_mask & !this.used).trailing_zeros() as usize;
        if n >= LIST_REGISTERS_MAX
            || this.control != Control::default()
            || self.ready(vcpu, w) & 1 << (intid % 32) == 0
        {
            return false;
        }
        self.list(vcpu, n, intid.into(), false);
        hw.write(n, self.vcpus[vcpu].written[n]);
        true
    }

    /// Takes everything back from the list registers of the CPU that has `vcpu` loaded, and leaves them empty.
    #[inline(always)]
    pub fn exit(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        let this = &self.vcpus[vcpu];
        if this.used == 0 && this.control == Control::default() {
            return Effects::NONE;
        }
        self.take_back(vcpu, hw)
    }

    #[inline(never)]
    fn take_back(&mut self, vcpu: usize, hw: &mut impl ListRegisters) -> Effects {
        let control = core::mem::take(&mut self.vcpus[vcpu].control);
        let mut effects = Effects::NONE;
        if control != Control::default() {
            let eois = if control.active_spilled { hw.eoi_count() } else { 0 };
            effects |= self.end_spilled(vcpu, eois, hw);
            self.vcpus[vcpu].attention |= MORE;
            hw.set_control(Control::default());
        }
        let used = self.vcpus[vcpu].used;
        let empty = if used != 0 { hw.empty() } else { 0 };
        for n in bits(used) {
            if empty >> n & 1 != 0 {
                effects |= self.fold(vcpu, n, State::INACTIVE);
            } else {
                effects |= self.unlist(vcpu, n, hw.state(n));
                hw.write(n, 0);
            }
        }
        effects.kick = effects.kick.without(vcpu);
        effects
    }

    /// Looks at what the guest has done to the interrupts of word `w` (32 INTIDs) in the list registers of the CPU that has `vcpu`
    /// loaded, so that registers show it.
    pub fn observe(&mut self, vcpu: usize, w: usize, hw: &mut impl ListRegisters) -> Effects {
        let control = self.vcpus[vcpu].control;
        let mut effects = Effects::NONE;
        let eois = if control.active_spilled { hw.eoi_count() } else { 0 };
        if eois != 0 {
            effects |= self.end_spilled(vcpu, eois, hw);
            hw.set_control(control);
        }
        let empty = hw.empty();
        for n in bits(self.vcpus[vcpu].used) {
            let vintid = self.vcpus[vcpu].lrs[n].vintid;
            if usize::from(vintid) / 32 != w {
                continue;
            }
            let this = &mut self.vcpus[vcpu];
            if empty >> n & 1 != 0 {
                this.ended |= 1 << n;
                continue;
            }
            let state = hw.state(n);
            if state != State::PENDING {
                this.lrs[n].state = state;
                // Not to be written again as it was. One that was active and is pending alone now is still known as active, for that.
                this.written[n] = 0;
            }
            let (word, bit) = (self.word_mut(vcpu, w), 1 << (vintid % 32));
            word.lr_pending = word.lr_pending & !bit | if state.pending { bit } else { 0 };
            word.lr_active = word.lr_active & !bit | if state.active { bit } else { 0 };
        }
        effects.kick = effects.kick.without(vcpu);
        effects
    }

    /// The interrupts of word `w` that are listed for `vcpu`, but are known to have ended.
    pub(crate) fn ended(&self, vcpu: usize, w: usize) -> u32 {
        let this = &self.vcpus[vcpu];
        bits(this.ended)
            .map(|n| usize::from(this.lrs[n].vintid))
            .filter(|intid| intid / 32 == w)
            .fold(0, |set, intid| set | 1 << (intid % 32))
    }

    /// Whether an interrupt would be signalled to `vcpu` through a CPU interface that lets `mask` through: ends a WFI.
    /// To be asked after [`Vgic::exit`]. Interrupts that only the running priority holds back count.
    pub fn deliverable(&self, vcpu: usize, mask: CpuMask) -> bool {
        let this = &self.vcpus[vcpu];
        bits(this.attention as u32 | this.spilled_pending).any(|w| {
            let word = self.word(vcpu, w);
            let ready = self.ready(vcpu, w) & word.in_groups(mask.groups);
            word.priorities.most_urgent(ready).is_some_and(|(priority, _)| priority < mask.pmr)
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

    /// Has pending interrupts of the `kept` list registers give way to what waits and is more urgent; or if all are active, the least
    /// urgent one. Lists the most urgent one that waits if none is pending in a list register; and the last one that waits, if that is no
    /// more than one. The others have their turn when the guest has acknowledged what is listed ([`Control::pending_spilled`]), so that a
    /// guest with very many has EL2 list them as it takes them. After the last step a pending one is listed, or none waits. Returns the
    /// list registers that gave way.
    ///
    /// Whether the guest's CPU interface lets the group of what is listed through is not looked at: with both groups in use and one off
    /// there (ICC_IGRPENn_EL1) a pending one of that group, if it is more urgent, keeps those of the other one waiting.
    fn list_pending(
        &mut self,
        vcpu: usize,
        kept: u16,
        left: &mut usize,
        effects: &mut Effects,
        hw: &impl ListRegisters,
    ) -> u16 {
        if self.vcpus[vcpu].spilled_pending == 0 {
            return 0;
        }
        let this = &self.vcpus[vcpu];
        let waits = this.waiting.most_urgent(this.spilled_pending).map_or(u8::MAX, |(priority, _)| priority);
        let (mut listed, mut give_way) = (false, 0u16);
        for n in bits(kept) {
            if hw.state(n).pending {
                listed = true;
                give_way |= u16::from(waits < this.lrs[n].priority) << n;
            }
        }
        if !listed && self.lr_mask & !this.used == 0 {
            // All are active.
            give_way = bits(kept).max_by_key(|&n| this.lrs[n].priority).map_or(0, |n| 1 << n);
        }
        if give_way != 0 {
            // Their places are for the next step.
            self.vcpus[vcpu].attention |= MORE;
            let mut evicted = 0;
            // One is left for a look at the word. If none fits into this step, it does into the next one.
            for n in bits(give_way).take(left.saturating_sub(1) / MOVE) {
                evicted |= 1 << n;
                *effects |= self.unlist(vcpu, n, hw.state(n));
            }
            return evicted;
        }
        if !listed {
            self.list_most_urgent(vcpu, left);
        }
        let this = &self.vcpus[vcpu];
        let free = self.lr_mask & !this.used;
        // The last one is for active interrupts.
        let free = if this.spilled_active != 0 { free & free.wrapping_sub(1) } else { free };
        if free != 0 && self.one_waits(vcpu) {
            self.list_most_urgent(vcpu, left);
        }
        0
    }

    /// Lists the most urgent pending interrupt that waits for a list register, of which one is free; or leaves it to the next step.
    fn list_most_urgent(&mut self, vcpu: usize, left: &mut usize) {
        if *left < MOVE {
            self.vcpus[vcpu].attention |= MORE;
            return;
        }
        let free = self.lr_mask & !self.vcpus[vcpu].used;
        if let Some(intid) = self.take_most_urgent(vcpu) {
            self.list(vcpu, free.trailing_zeros() as usize % LIST_REGISTERS_MAX, intid, true);
            *left = 0;
        }
    }

    /// Lists active interrupts. Their order does not matter: those that are not listed end by [`Vgic::end_spilled`] or [`Vgic::dir`].
    fn list_active(&mut self, vcpu: usize, left: usize) {
        let this = &self.vcpus[vcpu];
        if this.spilled_active == 0 {
            return;
        }
        let listed = bits(this.used).filter(|&n| this.lrs[n].state.active).count();
        let mut free = bits(self.lr_mask & !this.used).take(LISTED_ACTIVE.saturating_sub(listed));
        for w in bits(this.spilled_active) {
            for bit in bits(self.unlisted_active(vcpu, w)) {
                let Some(n) = free.next() else { return };
                if left < MOVE {
                    return self.vcpus[vcpu].attention |= MORE;
                }
                self.list(vcpu, n, w * 32 + bit, self.vcpus[vcpu].spilled_pending != 0);
            }
            self.vcpus[vcpu].spilled_active &= !(1 << w);
        }
    }

    /// Whether a single pending interrupt waits for a list register.
    fn one_waits(&self, vcpu: usize) -> bool {
        let words = self.vcpus[vcpu].spilled_pending;
        words.is_power_of_two() && self.ready(vcpu, words.trailing_zeros() as usize).is_power_of_two()
    }

    /// What of word `w` is pending for `vcpu` and in no list register.
    #[inline]
    fn ready(&self, vcpu: usize, w: usize) -> u32 {
        self.word(vcpu, w).ready(self.groups) & self.vcpus[vcpu].home[w]
    }

    /// What of word `w` is active for `vcpu` and in no list register.
    #[inline]
    fn unlisted_active(&self, vcpu: usize, w: usize) -> u32 {
        self.word(vcpu, w).unlisted_active() & self.vcpus[vcpu].home[w]
    }

    /// Puts a pending or active interrupt into list register `n`, which is free. `crowded`: pending ones may wait for one.
    ///
    /// A pending latch moves into the register. If the interrupt is still pending after that (an asserted level line,
    /// another sender of an SGI, a latch that could not move) its end must come to our notice: EOI maintenance.
    fn list(&mut self, vcpu: usize, n: usize, intid: usize, crowded: bool) {
        let index = self.index(vcpu, intid / 32);
        let (this, word) = (&mut self.vcpus[vcpu], &mut self.state[index]);
        let (bit, sgi) = (1u32 << (intid % 32), intid < crate::SGIS);
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
        let lr = Lr {
            vintid: intid as u16,
            state: State { pending, active },
            priority: word.priorities.of[intid % 32],
            group1: word.group1 & bit != 0,
            hw,
            eoi: more,
            source,
        };
        this.set(n, lr, self.version);
        this.used |= 1 << n;
        if hw.is_some() && latched && !active {
            this.mapped = n as u8;
        }
        this.latched = this.latched & !(1 << n) | u16::from(latched) << n;
    }

    /// Takes the interrupt of list register `n`, which is in `state` now, back into the distributor.
    #[inline(never)]
    fn unlist(&mut self, vcpu: usize, n: usize, state: State) -> Effects {
        self.fold(vcpu, n, state)
    }

    /// [`Vgic::unlist`], for where the state is known.
    #[inline(always)]
    fn fold(&mut self, vcpu: usize, n: usize, state: State) -> Effects {
        let Lr { vintid, hw, source, .. } = self.vcpus[vcpu].lrs[n];
        let (intid, w, bit) = (usize::from(vintid), usize::from(vintid) / 32, 1 << (vintid % 32));
        let index = self.index(vcpu, w);
        let (this, word) = (&mut self.vcpus[vcpu], &mut self.state[index]);
        this.used &= !(1 << n);
        this.ended &= !(1 << n);
        if usize::from(this.mapped) == n {
            this.mapped = NOT_MAPPED;
        }
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
        if w > 0 && this.home[w] & !this.targets[w] & bit != 0 {
            return self.touch(vcpu, w, bit);
        }
        // It stays at home here, so that nobody else need look at it.
        let orphan = word.orphans() & bit != 0;
        if (word.owed | word.pending() | word.busy()) & bit != 0 {
            self.orphans |= u32::from(orphan && w > 0) << w;
            this.attend(w, bit, 0);
        }
        Effects { kick: VcpuSet::EMPTY, deactivate: orphan }
    }

    /// Deactivates spilled interrupts whose EOI found no list register. A guest ends the most urgent one first, if its EOIs deactivate.
    fn end_spilled(&mut self, vcpu: usize, eois: u8, hw: &impl ListRegisters) -> Effects {
        let mut effects = Effects::NONE;
        for _ in 0..if hw.splits_eoi() { 0 } else { eois } {
            let mut best = None;
            let this = &self.vcpus[vcpu];
            for w in bits(this.attention as u32 | this.spilled_active) {
                let active = self.unlisted_active(vcpu, w);
                let urgent = self.word(vcpu, w).priorities.most_urgent(active);
                let urgent = urgent.map(|(priority, bit)| (priority, w, bit));
                best = [best, urgent].into_iter().flatten().min();
            }
            let Some((_, w, bit)) = best else { break };
            effects |= self.clear_active(vcpu, w, 1 << bit);
        }
        effects
    }
}
