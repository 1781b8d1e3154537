//! The virtual interrupt controller of one VM: one state machine with a GICv2 and a GICv3 register face.
//!
//! [`Vgic`] holds the state of all interrupts as plain data. The virtual CPU interface is the hardware's: the guest
//! acknowledges and ends interrupts there, without the hypervisor, from the list registers that [`Vgic::enter`] fills.
//! Methods are bounded, do not allocate, and take `&mut self`: the integrator puts one lock around the whole.
//!
//! # Keeping the list registers
//!
//! While a vCPU stays loaded its list registers stay in the hardware; an exit that does not concern interrupts need
//! not look at them. The rules:
//!
//! * A method returns in [`Effects::kick`] the vCPUs whose list registers no longer say all there is. For each, the
//!   integrator sees to it that [`Vgic::enter`] runs on the CPU that has it loaded, before it next enters the guest
//!   (by an IPI if it is running, by waking it if it is not loaded). [`Vgic::needs_enter`] tells the same later. `enter`, `fire` and
//!   `maintenance` have the vCPU itself among them if another step must follow: the guest is not entered before that.
//! * [`Vgic::exit`] takes everything back, before a vCPU is unloaded and before [`Vgic::deliverable`] is asked (WFI). The
//!   list registers are empty then: [`Vgic::enter`] comes before the guest, though nobody is told by a kick.
//! * [`Vgic::observe`] comes before the vCPU's own read of a register that has a [`listed_word`]; then
//!   [`Vgic::needs_enter`] tells whether [`Vgic::enter`] must come before the guest.
//! * An SGI is [posted](Posted::post) without the lock, and its targets are kicked; [`Vgic::deliver`] takes it from there. A register that
//!   shows or changes the pending state or the group of a vCPU's SGIs is accessed after [`Vgic::absorb`] for that vCPU.
//! * [`Vgic::maintenance`] on the maintenance interrupt.
//! * A vCPU that sleeps and stays loaded keeps its list registers if it [is quiet](Vgic::is_quiet).
//!
//! A read of ISPENDR or ISACTIVER shows an interrupt in the list register of *another* vCPU as it was when that
//! register was written or last taken back; a write to them takes effect when that vCPU, having been kicked, next enters. Clearing the
//! active state of an interrupt that another vCPU acknowledges at the same moment may deactivate the new activation. So may a change of the
//! priority of one that is being acknowledged or ended elsewhere, if more are active than there are list registers.
//!
//! # Choices where the architecture leaves one
//!
//! 32 priority levels. An SPI that may go to several vCPUs goes to the lowest-numbered one that is online (GICv3: and
//! awake). A GICv2 SGI that is active is not presented for a second sender before it is deactivated. Priority order is
//! that of the distributor: an interrupt whose group is off in the virtual CPU interface alone keeps its list register.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cpu;
mod dist;
mod lr;
mod sgi;
mod state;
mod v2;
mod v3;

use alloc::{boxed::Box, vec, vec::Vec};

pub use cpu::CpuMask;
pub use dist::listed_word;
pub use lr::{Control, ListRegisters, Lr, State};
pub use sgi::{Posted, Sgi, SgiRegister};
pub use state::Groups;
use state::{Priorities, Word, bits};
pub use v2::SGIR;
pub use v3::{GICR_STRIDE, affinity};

/// The architecture version that the guest sees: that of the hardware, whose CPU interface it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: at most 8 vCPUs.
    V2,
    /// GICv3 with affinity routing, one Security state, no LPIs.
    V3,
}

/// What a vGIC is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The register face.
    pub version: Version,
    /// 1 to 8 (GICv2) or 64 (GICv3).
    pub vcpus: usize,
    /// Number of SPIs, at most 988; rounded up to what the registers can express (a multiple of 32, or 988).
    pub spis: usize,
    /// List registers that every physical CPU has, 1 to 16.
    pub list_registers: usize,
}

/// A [`Config`] out of its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadConfig;

/// A set of vCPUs of one VM: bit n is vCPU n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuSet(pub u64);

impl VcpuSet {
    /// No vCPU.
    pub const EMPTY: VcpuSet = VcpuSet(0);

    /// Only `vcpu`.
    pub const fn one(vcpu: usize) -> VcpuSet {
        VcpuSet(1 << vcpu)
    }

    /// The first `count` vCPUs (1 to 64).
    pub const fn first(count: usize) -> VcpuSet {
        VcpuSet(u64::MAX >> (64 - count))
    }

    /// Whether `vcpu` is in the set.
    pub const fn contains(self, vcpu: usize) -> bool {
        self.0 >> vcpu & 1 != 0
    }

    /// The set without `vcpu`.
    pub const fn without(self, vcpu: usize) -> VcpuSet {
        VcpuSet(self.0 & !(1 << vcpu))
    }

    /// Whether there is nobody in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        bits(self.0)
    }
}

/// What the integrator owes after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// vCPUs that must go through [`Vgic::enter`] soon.
    pub kick: VcpuSet,
    /// [`Vgic::take_deactivation`] has something.
    pub deactivate: bool,
}

impl Effects {
    /// Nothing to do.
    pub const NONE: Effects = Effects { kick: VcpuSet::EMPTY, deactivate: false };
}

impl core::ops::BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Effects) {
        self.kick.0 |= other.kick.0;
        self.deactivate |= other.deactivate;
    }
}

/// The first INTID that is not an interrupt (Arm IHI 0069H, section 2.2.1).
const INTID_LIMIT: usize = 1020;
const SGIS: usize = 16;
const LIST_REGISTERS_MAX: usize = 16;
/// In [`Vcpu::attention`]: it is not only about one interrupt that became pending. What had to wait may be listed now, or of the words
/// more has changed than that.
const MORE: u64 = 1 << 32;
/// [`Vcpu::mapped`] if there is none.
const NOT_MAPPED: u8 = u8::MAX;

/// A vCPU's part of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Vcpu {
    /// Per SGI, the vCPUs that have it pending here (GICv2), or bit 0 (GICv3). Not zero iff it is latched.
    sgi_pending: [u8; SGIS],
    /// Per SGI that is active and not listed, who sent it.
    sgi_source: [u8; SGIS],
    /// Per word: the SPIs that may be sent here.
    targets: Box<[u32]>,
    /// Per word: the interrupts that only this vCPU may list. An SPI that is not busy has its home with one of its
    /// targets (if it has any), a busy one where it was listed.
    home: Box<[u32]>,
    /// The words in which something changed since the list registers were last brought up to date, and [`MORE`].
    attention: u64,
    /// Of the other words, those that may have pending interrupts for this vCPU that wait for a list register.
    spilled_pending: u32,
    /// By word of `spilled_pending` without attention, a priority: none that waits is more urgent. Who had it may be gone.
    waiting: Priorities,
    /// Of the other words, those that may have active interrupts that found no list register.
    spilled_active: u32,
    /// Which interrupts changed in the words of `attention`, or'ed over these; it may have more, of words looked at since.
    changed: u32,
    /// The list registers as they were written, or last seen, those of `used`.
    lrs: [Lr; LIST_REGISTERS_MAX],
    used: u16,
    /// By list register: what was written to it last.
    written: [u64; LIST_REGISTERS_MAX],
    /// A list register of a mapped interrupt that was last known as pending, out of a latch, and may be written again when that fires
    /// again; else an index of none.
    mapped: u8,
    /// The list registers of `used` that the guest had emptied when they were looked at last. They are taken back when there is
    /// another reason for that; until then a mapped one may fire again.
    ended: u16,
    /// The list registers whose pending state was taken out of a latch, to which it returns unless acknowledged.
    latched: u16,
    control: Control,
    online: bool,
    /// GICR_WAKER.ProcessorSleep.
    asleep: bool,
}

impl Vcpu {
    /// Whether it takes part in the choice of homes.
    fn is_willing(&self) -> bool {
        self.online && !self.asleep
    }

    /// What list register `n` is to hold.
    #[inline]
    fn set(&mut self, n: usize, lr: Lr, version: Version) {
        self.lrs[n] = lr;
        self.written[n] = match version {
            Version::V2 => lr.to_gicv2().into(),
            Version::V3 => lr.to_gicv3(),
        };
    }

    /// Calls its attention to what changed in word `w`.
    #[inline]
    fn attend(&mut self, w: usize, changed: u32, more: u64) {
        self.changed = changed | if self.attention == 0 { 0 } else { self.changed };
        self.attention |= 1 << w | more;
    }
}

/// The interrupt controller of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vgic {
    version: Version,
    /// Mask of the list registers that exist.
    lr_mask: u16,
    vcpus: Vec<Vcpu>,
    /// The SGIs and PPIs of each vCPU (word 0 to it), then the SPIs (words 1 and up to everybody).
    state: Vec<Word>,
    /// GICD_IROUTER of each SPI (GICv3), without Aff3.
    routes: Vec<u32>,
    /// GICD_CTLR's enables.
    groups: Groups,
    /// Words of SPIs that may have orphans.
    orphans: u32,
    /// Words of SPIs that had one whose home was not among its targets, or that had none but targets, when homes were given last:
    /// only busy ones have.
    strays: u32,
}

impl Vgic {
    /// A controller after reset, with vCPU 0 online. The only method that allocates.
    pub fn new(config: Config) -> Result<Vgic, BadConfig> {
        let Config { version, vcpus, spis, list_registers } = config;
        let most = if version == Version::V2 { v2::VCPUS_MAX } else { v3::VCPUS_MAX };
        if !(1..=most).contains(&vcpus)
            || spis > INTID_LIMIT - 32
            || !(1..=LIST_REGISTERS_MAX).contains(&list_registers)
        {
            return Err(BadConfig);
        }
        let words = 1 + spis.div_ceil(32);
        let mut private = Word { edge: 0xffff, ..Word::RESET };
        if version == Version::V2 {
            private.enabled = 0xffff; // as in a GIC-400, where SGIs cannot be disabled
        }
        let mut home = vec![0; words].into_boxed_slice();
        home[0] = !0;
        let vcpu = Vcpu {
            sgi_pending: [0; SGIS],
            sgi_source: [0; SGIS],
            targets: home.clone(),
            home,
            attention: 0,
            spilled_pending: 0,
            waiting: Priorities::RESET,
            spilled_active: 0,
            changed: 0,
            lrs: [Lr::EMPTY; LIST_REGISTERS_MAX],
            used: 0,
            written: [0; LIST_REGISTERS_MAX],
            mapped: NOT_MAPPED,
            ended: 0,
            latched: 0,
            control: Control::default(),
            online: false,
            asleep: version == Version::V3,
        };
        let mut vgic = Vgic {
            version,
            lr_mask: u16::MAX >> (LIST_REGISTERS_MAX - list_registers),
            vcpus: vec![vcpu; vcpus],
            state: [vec![private; vcpus], vec![Word::RESET; words - 1]].concat(),
            routes: vec![0; if version == Version::V3 { (words - 1) * 32 } else { 0 }],
            groups: Groups::default(),
            orphans: 0,
            strays: 0,
        };
        let boot = &mut vgic.vcpus[0];
        boot.online = true;
        // GICv3: IROUTER resets to affinity 0. GICv2: a uniprocessor's SPIs all go to it, else to nobody.
        if version == Version::V3 || vcpus == 1 {
            boot.targets.fill(!0);
            boot.home.fill(!0);
        }
        Ok(vgic)
    }

    /// Sets the input line of a PPI of `vcpu`, or of an SPI (`vcpu` does not matter then).
    ///
    /// For a mapped interrupt `true` means that the physical interrupt was acknowledged, its priority dropped and it
    /// was left active; `false` withdraws it.
    pub fn line(&mut self, vcpu: usize, intid: u16, level: bool) -> Effects {
        let Some((w, bit)) = self.locate(intid) else {
            return Effects::NONE;
        };
        let word = self.word_mut(vcpu, w);
        if word.mapped & bit != 0 {
            if !level {
                return self.clear_pending(vcpu, w, bit);
            }
            word.latch |= bit;
            word.owed |= bit;
        } else {
            if (word.line & bit != 0) == level {
                return Effects::NONE;
            }
            word.line ^= bit;
            word.latch |= word.line & word.edge & bit;
        }
        self.raise(vcpu, w, bit)
    }

    /// A pulse on the line of an edge-triggered interrupt: makes it pending until it is acknowledged.
    pub fn pulse(&mut self, vcpu: usize, intid: u16) -> Effects {
        let Some((w, bit)) = self.locate(intid) else {
            return Effects::NONE;
        };
        let word = self.word_mut(vcpu, w);
        word.latch |= bit;
        word.owed |= word.mapped & bit;
        self.raise(vcpu, w, bit)
    }

    /// Backs a PPI or SPI by the physical interrupt `pintid`: a guest's deactivation then deactivates that one, in
    /// hardware. To be called before the interrupt is first used.
    pub fn map_hw(&mut self, vcpu: usize, intid: u16, pintid: u16) {
        let Some((w, bit)) = self.locate(intid) else {
            return;
        };
        let word = self.word_mut(vcpu, w);
        word.mapped |= bit;
        word.line &= !bit;
        word.pintid[usize::from(intid) % 32] = pintid;
    }

    /// Whether the physical interrupt behind the mapped `intid` must be active while `vcpu` is loaded: the virtual one
    /// is pending or active because of it. Set its physical state from this at switch-in; at switch-out clear it.
    #[inline]
    pub fn physical_active(&self, vcpu: usize, intid: u16) -> bool {
        self.locate(intid).is_some_and(|(w, bit)| {
            let word = self.word(vcpu, w);
            let mapped = |lr: &Lr| lr.vintid == intid && lr.hw.is_some();
            word.owed & bit != 0 && word.orphans() & bit == 0
                || bits(self.vcpus[vcpu].used).any(|n| mapped(&self.vcpus[vcpu].lrs[n]))
        })
    }

    /// Whether the physical interrupt behind the mapped `intid` of `vcpu`, none of whose list registers has it, is still active: then it
    /// does not interrupt this CPU again.
    #[inline]
    pub fn owes(&self, vcpu: usize, intid: u16) -> bool {
        self.locate(intid).is_some_and(|(w, bit)| self.word(vcpu, w).owed & bit != 0)
    }

    /// The next physical interrupt whose virtual one ended without the hardware's help: clear its active state (by
    /// ICACTIVER, which does no harm if it is not active). `loaded` is the vCPU that this CPU has loaded: PPIs are
    /// returned on its behalf only.
    pub fn take_deactivation(&mut self, loaded: Option<usize>) -> Option<u16> {
        fn take(word: &mut Word) -> Option<u16> {
            let bit = bits(word.orphans()).next()?;
            word.owed &= !(1 << bit);
            Some(word.pintid[bit])
        }
        if let Some(pintid) = loaded.and_then(|vcpu| take(self.word_mut(vcpu, 0))) {
            return Some(pintid);
        }
        for w in bits(self.orphans) {
            if let Some(pintid) = take(self.word_mut(0, w)) {
                return Some(pintid);
            }
            self.orphans &= !(1 << w);
        }
        None
    }

    /// Tells that `vcpu` runs (PSCI CPU_ON) or not (CPU_OFF): where SPIs with a choice of vCPUs go.
    pub fn set_online(&mut self, vcpu: usize, online: bool) -> Effects {
        if core::mem::replace(&mut self.vcpus[vcpu].online, online) == online {
            return Effects::NONE;
        }
        self.rehome_after(vcpu)
    }

    /// The word and the mask of a PPI or SPI that exists.
    fn locate(&self, intid: u16) -> Option<(usize, u32)> {
        let intid = usize::from(intid);
        let there = (SGIS..INTID_LIMIT).contains(&intid) && intid / 32 < self.words();
        there.then_some((intid / 32, 1 << (intid % 32)))
    }

    /// Words that a vCPU sees.
    fn words(&self) -> usize {
        self.state.len() - self.vcpus.len() + 1
    }

    fn all_words(&self) -> u32 {
        u32::MAX >> (32 - self.words())
    }

    /// Where word `w`, as `vcpu` sees it, is in `state`.
    fn index(&self, vcpu: usize, w: usize) -> usize {
        if w == 0 { vcpu } else { self.vcpus.len() + w - 1 }
    }

    fn word(&self, vcpu: usize, w: usize) -> &Word {
        &self.state[self.index(vcpu, w)]
    }

    fn word_mut(&mut self, vcpu: usize, w: usize) -> &mut Word {
        let index = self.index(vcpu, w);
        &mut self.state[index]
    }

    /// After a change to `bits` of a word: finds who has to look at it.
    fn touch(&mut self, vcpu: usize, w: usize, bits: u32) -> Effects {
        let bits = if w > 0 { bits | self.rehome_strays(w) } else { bits };
        let word = self.word(vcpu, w);
        let concerned = (word.ready(self.groups) | word.busy()) & bits;
        let orphans = word.orphans() & bits;
        if concerned | orphans == 0 {
            return Effects::NONE;
        }
        if w > 0 && orphans != 0 {
            self.orphans |= 1 << w;
        }
        Effects { kick: self.attend(vcpu, w, concerned | orphans, MORE), deactivate: orphans != 0 }
    }

    /// After the one interrupt `bit` of a word got a new pending latch or another line level.
    #[inline(always)]
    fn raise(&mut self, vcpu: usize, w: usize, bit: u32) -> Effects {
        let word = self.word(vcpu, w);
        if (word.ready(self.groups) | word.busy()) & bit == 0 {
            return Effects::NONE;
        }
        Effects { kick: self.attend(vcpu, w, bit, 0), deactivate: false }
    }

    /// Calls the attention of those that have one of `bits` of a word at home.
    #[inline(always)]
    fn attend(&mut self, vcpu: usize, w: usize, bits: u32, more: u64) -> VcpuSet {
        if w > 0 {
            return self.attend_homes(w, bits, more);
        }
        self.vcpus[vcpu].attend(w, bits, more);
        VcpuSet::one(vcpu)
    }

    #[inline(never)]
    fn attend_homes(&mut self, w: usize, bits: u32, more: u64) -> VcpuSet {
        let mut kick = VcpuSet::EMPTY;
        for (n, vcpu) in self.vcpus.iter_mut().enumerate() {
            if vcpu.home[w] & bits != 0 {
                vcpu.attend(w, bits, more);
                kick.0 |= 1 << n;
            }
        }
        kick
    }

    /// Has `vcpu` look at everything.
    fn attend_all(&mut self, vcpu: usize) {
        self.vcpus[vcpu].attention = MORE | u64::from(self.all_words());
        self.vcpus[vcpu].changed = !0;
    }

    /// Gives the SPIs of a word that are no longer busy a home among their targets. Returns those that moved.
    #[inline]
    fn rehome_strays(&mut self, w: usize) -> u32 {
        if self.strays >> w & 1 != 0 { self.rehome(w) } else { 0 }
    }

    /// Chooses a home for the SPIs of a word that are not busy: the lowest target that takes part in such choices,
    /// else the lowest one. Returns those that moved.
    fn rehome(&mut self, w: usize) -> u32 {
        let busy = self.word(0, w).busy();
        let (mut free, mut moved) = (!busy, 0);
        for willing in [true, false] {
            for vcpu in self.vcpus.iter_mut().filter(|vcpu| vcpu.is_willing() == willing) {
                let home = vcpu.home[w] & busy | vcpu.targets[w] & free;
                free &= !home;
                moved |= vcpu.home[w] ^ home;
                vcpu.home[w] = home;
            }
        }
        // Those that are not busy have a home if they can; of the others it has to be seen.
        let (mut concerned, mut settled) = (0, 0);
        for vcpu in &self.vcpus {
            concerned |= vcpu.targets[w] | vcpu.home[w];
            settled |= vcpu.targets[w] & vcpu.home[w];
        }
        self.strays = self.strays & !(1 << w) | u32::from(concerned != settled) << w;
        moved
    }

    /// After a change of whether `vcpu` takes part in the choice of homes.
    fn rehome_after(&mut self, vcpu: usize) -> Effects {
        let mut effects = Effects::NONE;
        for w in 1..self.words() {
            let this = &self.vcpus[vcpu];
            // What it may win, or lose.
            let stake = if this.is_willing() { this.targets[w] & !this.home[w] } else { this.home[w] };
            if stake != 0 {
                let moved = self.rehome(w);
                effects |= self.touch(0, w, moved);
            }
        }
        effects
    }

    fn clear_pending(&mut self, vcpu: usize, w: usize, mask: u32) -> Effects {
        let word = self.word_mut(vcpu, w);
        word.latch &= !mask;
        word.drop_pending |= mask & word.listed();
        if w == 0 {
            for sgi in bits(mask & 0xffff) {
                self.vcpus[vcpu].sgi_pending[sgi] = 0;
            }
        }
        self.touch(vcpu, w, mask)
    }

    fn clear_active(&mut self, vcpu: usize, w: usize, mask: u32) -> Effects {
        let word = self.word_mut(vcpu, w);
        word.active &= !mask;
        word.drop_active |= mask & word.listed();
        self.touch(vcpu, w, mask)
    }
}
