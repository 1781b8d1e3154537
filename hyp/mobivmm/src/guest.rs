//! One VM at EL2: the pure [`vm::Vm`] with its memory and what the hardware keeps for each vCPU.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use arch::MAX_CPUS;
use arch::context::VmRegisters;
use arch::phys::Region;
use arch::work::Work;
use bundle::VmConfig;
use lock::TicketMutex;
use sched::VcpuId;
use stage2::{Pa, Stage2, VmId};
use vm::Vm;
use vm::stolen;

use crate::control;

/// Where a vCPU runs, and whether something came for it: in one word, so that whoever brings something meets it either running or not,
/// and it does not go to sleep over it.
#[derive(Debug, Default)]
struct Place(AtomicU32);

/// The vCPU runs on the CPU in the lower bits.
const RUNS: u32 = 1 << 31;
/// Its list registers no longer say all there is.
const ATTENTION: u32 = 1 << 30;
/// It has gone to sleep since it ran last.
const SLEEPS: u32 = 1 << 29;

/// What becomes of a vCPU that was marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// It runs on this CPU, which has to look before it goes on.
    Runs(usize),
    /// It is to be woken.
    Sleeps,
    /// It looks when it runs again, or is started.
    Waits,
}

/// The pages of EL2's that a VM sees.
pub struct Pages {
    /// Its stolen time.
    pub stolen: Region,
    /// By channel: what it shares with another VM.
    pub channels: Vec<Pa>,
}

/// One VM.
pub struct Guest {
    pub index: usize,
    pub vm: Vm,
    pub config: VmConfig<'static>,
    /// The scheduler's number of vCPU 0; the others follow.
    pub first: u16,
    pub stage2: TicketMutex<Stage2>,
    pub vttbr: u64,
    /// The work item's place: the CPU that runs it holds it.
    pub work: TicketMutex<Work>,
    /// Another reservation that is wanted of it.
    pub change: control::Slot,
    pub pages: Pages,
    /// By vCPU: how long it had waited for a CPU before this start of the VM, ns.
    waited: Box<[AtomicU64]>,
    /// By vCPU.
    running: Box<[Place]>,
    /// By vCPU: when its emulated timer is due, on the physical counter; [`u64::MAX`] = never.
    deadlines: Box<[AtomicU64]>,
    /// By vCPU: up to which IPA its set/way maintenance is done; [`u64::MAX`] = none is under way.
    flushes: Box<[AtomicU64]>,
    /// By physical CPU: which vCPU of this VM ran there last, for its TLB.
    last: [AtomicU16; MAX_CPUS],
}

const NOWHERE: u16 = u16::MAX;

impl Guest {
    /// Puts the parts together; nothing runs yet.
    pub fn new(
        index: usize,
        vm: Vm,
        config: VmConfig<'static>,
        first: u16,
        stage2: Stage2,
        work: Work,
        pages: Pages,
    ) -> Self {
        let vcpus = vm.vcpus.len();
        Self {
            index,
            vm,
            config,
            first,
            vttbr: stage2.vttbr(),
            stage2: TicketMutex::new(stage2),
            work: TicketMutex::new(work),
            change: control::Slot::new(),
            pages,
            waited: (0..vcpus).map(|_| AtomicU64::new(0)).collect(),
            running: (0..vcpus).map(|_| Place::default()).collect(),
            deadlines: (0..vcpus).map(|_| AtomicU64::new(u64::MAX)).collect(),
            flushes: (0..vcpus).map(|_| AtomicU64::new(u64::MAX)).collect(),
            last: [const { AtomicU16::new(NOWHERE) }; MAX_CPUS],
        }
    }

    /// Its number in the machine file, by which memory is owned.
    pub fn vm_id(&self) -> VmId {
        VmId(self.vm.config.id)
    }

    /// The scheduler's number of a vCPU.
    pub fn id(&self, vcpu: usize) -> VcpuId {
        VcpuId(self.first + vcpu as u16)
    }

    /// Marks a vCPU whose list registers have to be brought up to date before it runs on.
    #[inline]
    pub fn attend(&self, vcpu: usize) -> Marked {
        let was = self.running[vcpu].0.fetch_or(ATTENTION, Ordering::AcqRel);
        match was & !(RUNS | ATTENTION | SLEEPS) {
            cpu if was & RUNS != 0 => Marked::Runs(cpu as usize),
            _ if was & SLEEPS != 0 => Marked::Sleeps,
            _ => Marked::Waits,
        }
    }

    /// Whether the vCPU was marked; it no longer is.
    #[inline]
    pub fn take_attention(&self, vcpu: usize) -> bool {
        let place = &self.running[vcpu].0;
        place.load(Ordering::Acquire) & ATTENTION != 0 && {
            place.fetch_and(!ATTENTION, Ordering::AcqRel);
            true
        }
    }

    /// The vCPU runs on `cpu` from now on.
    #[inline]
    pub fn enters(&self, vcpu: usize, cpu: usize) {
        self.running[vcpu].0.fetch_or(RUNS | cpu as u32, Ordering::AcqRel);
    }

    /// The vCPU no longer runs. Returns whether it is marked.
    #[inline]
    pub fn leaves(&self, vcpu: usize) -> bool {
        self.running[vcpu].0.fetch_and(ATTENTION, Ordering::AcqRel) & ATTENTION != 0
    }

    /// The vCPU no longer runs and goes to sleep, unless it is marked. Returns whether it does.
    #[inline]
    pub fn sleeps(&self, vcpu: usize) -> bool {
        let unmarked = |place| (place & ATTENTION == 0).then_some(SLEEPS);
        self.running[vcpu].0.fetch_update(Ordering::AcqRel, Ordering::Acquire, unmarked).is_ok()
    }

    /// When the vCPU's emulated timer is due, on the physical counter.
    #[inline]
    pub fn deadline(&self, vcpu: usize) -> Option<u64> {
        let at = self.deadlines.get(vcpu)?.load(Ordering::Acquire);
        (at != u64::MAX).then_some(at)
    }

    /// Sets [`Self::deadline`].
    pub fn set_deadline(&self, vcpu: usize, at: Option<u64>) {
        if let Some(deadline) = self.deadlines.get(vcpu) {
            deadline.store(at.unwrap_or(u64::MAX), Ordering::Release);
        }
    }

    /// Where the vCPU's set/way maintenance goes on, if one is under way.
    #[inline]
    pub fn flush(&self, vcpu: usize) -> Option<u64> {
        let from = self.flushes.get(vcpu)?.load(Ordering::Relaxed);
        (from != u64::MAX).then_some(from)
    }

    /// Sets [`Self::flush`].
    pub fn set_flush(&self, vcpu: usize, from: Option<u64>) {
        if let Some(flush) = self.flushes.get(vcpu) {
            flush.store(from.unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Tells the guest what was stolen from its vCPU, which has waited for a CPU for `waited` ns in all.
    #[inline]
    pub fn tell_stolen(&self, vcpu: usize, waited: u64) {
        let stolen = waited.saturating_sub(self.waited[vcpu].load(Ordering::Relaxed));
        self.pages.stolen.write_word(self.pages.stolen.range().start + stolen::offset(vcpu), stolen);
    }

    /// Forgets what was, before the VM starts (again). `waited` is what the scheduler has counted for a vCPU.
    pub fn reset(&self, waited: impl Fn(VcpuId) -> u64) {
        for vcpu in 0..self.waited.len() {
            let waited = waited(self.id(vcpu));
            self.waited[vcpu].store(waited, Ordering::Relaxed);
            self.tell_stolen(vcpu, waited);
            self.set_flush(vcpu, None);
        }
    }

    /// Notes that the vCPU is loaded on a CPU; true if that CPU's TLB may have entries of another vCPU of this VM.
    #[inline]
    pub fn arrives(&self, vcpu: usize, cpu: usize) -> bool {
        self.last[cpu].swap(vcpu as u16, Ordering::Relaxed) != vcpu as u16
    }

    /// The VM's part of the register switch.
    pub fn registers(&self) -> VmRegisters {
        VmRegisters { vttbr: self.vttbr, cntvoff: self.vm.cntvoff() }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vm {}", self.config.name)
    }
}
