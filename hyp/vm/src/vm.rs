//! A virtual machine and its life: what it is made from, which of its vCPUs run, how it starts and stops.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use lock::TicketMutex;
use vgic::{Effects, ListRegisters, Posted, Sgi, Vgic};

use crate::bus::{self, AddressMap, BadMap};
use crate::handle::{Context, Host, Power};
use crate::pl011::Pl011;
use crate::state::VcpuState;
use crate::timer::{self, CNTV_INTID};

/// What a VM is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its index in the machine file.
    pub id: u8,
    /// Its name, for messages.
    pub name: String,
    /// The interrupt controller, and with it the number of vCPUs.
    pub gic: vgic::Config,
    /// Guest RAM.
    pub ram: Range<u64>,
    /// Its ends of channels; the index is the guest's number for it. At most [`bus::MAX_CHANNELS`].
    pub channels: Vec<Channel>,
}

/// An end of a channel ([`abi::channel`]): its page is at [`bus::channel_page`], its bell is [`bus::channel_intid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// What the machine file calls it.
    pub name: String,
    /// Which of its two ends this is, 0 or 1.
    pub end: u32,
}

/// Why a VM cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadVm {
    /// The vGIC refuses its part of the configuration: too many vCPUs, most likely.
    Gic,
    /// Two address ranges overlap.
    Map(BadMap),
}

/// Where a vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its PC.
    pub pc: u64,
    /// Its x0: the device tree's address, or CPU_ON's context.
    pub context: u64,
}

/// A vCPU's power state, as PSCI's AFFINITY_INFO tells it (Arm DEN 0022E).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuPower {
    /// Does not run.
    Off,
    /// Started, and has not run yet.
    OnPending(Entry),
    /// Runs, or waits for an interrupt.
    On,
}

/// Where a VM is in its life.
///
/// ```text
///            boot            stop                settle
/// Loading ---------> Running ----> Stopping(Off) -------> Stopped
///   ^  |      stop                     ^  Off wins
///   |  +-----------------------> Stopping(Reset)
///   +----------------------------------+  settle
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its images are being loaded; no vCPU runs.
    Loading,
    /// Its vCPUs run.
    Running,
    /// It was asked to stop: its vCPUs leave their CPUs, and none starts any more.
    Stopping(Power),
    /// It stopped for good.
    Stopped,
}

impl Phase {
    const fn to_u8(self) -> u8 {
        match self {
            Self::Loading => 0,
            Self::Running => 1,
            Self::Stopping(Power::Off) => 2,
            Self::Stopping(Power::Reset) => 3,
            Self::Stopped => 4,
        }
    }

    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Loading,
            1 => Self::Running,
            2 => Self::Stopping(Power::Off),
            3 => Self::Stopping(Power::Reset),
            _ => Self::Stopped,
        }
    }
}

/// What changes when vCPUs start and stop; also the right to change [`Vm::phase`]. Second in the order of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lifecycle {
    pub(crate) power: Box<[VcpuPower]>,
}

/// A virtual CPU.
#[derive(Debug)]
pub struct Vcpu {
    /// Its registers. First in the order of locks: held by the CPU that has it loaded, for as long as it is loaded.
    pub state: TicketMutex<VcpuState>,
    /// It is [`VcpuPower::On`]. Changed with `lifecycle` locked, read without.
    pub(crate) on: AtomicBool,
    /// The SGIs on the way to it.
    pub(crate) posted: Posted,
    /// When its physical timer is due, on the VM's counter, or [`timer::NEVER`].
    pub(crate) cntp_deadline: AtomicU64,
}

/// A virtual machine. It is shared by all CPUs that run its vCPUs.
#[derive(Debug)]
pub struct Vm {
    /// What it was made from.
    pub config: Config,
    /// Its vCPUs.
    pub vcpus: Box<[Vcpu]>,
    /// What lies where in its address space.
    pub map: AddressMap,
    /// Its interrupt controller. Its place in the order of locks: docs/architecture.md.
    pub gic: TicketMutex<Vgic>,
    pub(crate) uart: TicketMutex<Pl011>,
    pub(crate) lifecycle: TicketMutex<Lifecycle>,
    /// A [`Phase`]. Changed with `lifecycle` locked, read without.
    phase: AtomicU8,
    /// CNTVOFF_EL2: the physical counter minus the VM's, modulo 2^64.
    cntvoff: AtomicU64,
}

impl Vm {
    /// A VM whose vCPUs are all off: [`Vm::boot`] starts it.
    pub fn new(config: Config) -> Result<Self, BadVm> {
        let vcpus = config.gic.vcpus;
        let gic = new_gic(config.gic).ok_or(BadVm::Gic)?;
        let pages = (0..config.channels.len()).map(bus::channel_page);
        let memory = pages.chain([config.ram.clone()]);
        let map = AddressMap::new(config.gic.version, vcpus, memory).map_err(BadVm::Map)?;
        let vcpu = |index| {
            let mut state = VcpuState::default();
            state.sys.mpidr = mpidr(index);
            Vcpu {
                state: TicketMutex::new(state),
                on: AtomicBool::new(false),
                posted: Posted::default(),
                cntp_deadline: AtomicU64::new(timer::NEVER),
            }
        };
        Ok(Self {
            vcpus: (0..vcpus).map(vcpu).collect(),
            map,
            gic: TicketMutex::new(gic),
            uart: TicketMutex::new(Pl011::default()),
            lifecycle: TicketMutex::new(Lifecycle { power: (0..vcpus).map(|_| VcpuPower::Off).collect() }),
            phase: AtomicU8::new(Phase::Loading.to_u8()),
            cntvoff: AtomicU64::new(0),
            config,
        })
    }

    /// An interrupt controller after reset, for [`Vm::boot`]. Allocates, and takes long.
    pub fn new_gic(&self) -> Option<Vgic> {
        new_gic(self.config.gic)
    }

    /// Puts the devices into their reset state, `gic` ([`Vm::new_gic`]) in the place of the one that was, and starts vCPU 0 at `entry`.
    /// Returns false, and does nothing, unless the VM is being loaded: it was stopped meanwhile.
    ///
    /// Console input that the guest has not read stays: its sender holds the credit for it.
    pub fn boot(&self, entry: Entry, gic: &mut Vgic, host: &impl Host) -> bool {
        let mut lifecycle = self.lifecycle.lock();
        if self.phase() != Phase::Loading {
            return false;
        }
        self.uart.lock().reset();
        core::mem::swap(&mut *self.gic.lock(), gic);
        for vcpu in &self.vcpus {
            vcpu.posted.clear();
            vcpu.on.store(false, Ordering::Relaxed);
        }
        lifecycle.power.fill(VcpuPower::Off);
        lifecycle.power[0] = VcpuPower::OnPending(entry);
        self.set_phase(Phase::Running);
        drop(lifecycle);
        host.start(self, 0);
        true
    }

    /// To be called when a vCPU is about to be loaded, with its `state` locked. If it was started since it last ran, its registers and
    /// timers are reset to its entry point. Returns false if it is off, or its VM is to stop, and it must not run.
    #[inline]
    pub fn prepare(&self, vcpu: usize, state: &mut VcpuState, host: &impl Host) -> bool {
        // Who stops the VM waits for `state` before anything else becomes of it, so what is read here holds.
        self.phase() == Phase::Running
            && self
                .vcpus
                .get(vcpu)
                .is_some_and(|this| this.on.load(Ordering::Relaxed) || self.start(vcpu, state, host))
    }

    #[cold]
    #[inline(never)]
    fn start(&self, vcpu: usize, state: &mut VcpuState, host: &impl Host) -> bool {
        let mut lifecycle = self.lifecycle.lock();
        let VcpuPower::OnPending(entry) = lifecycle.power[vcpu] else { return false };
        lifecycle.power[vcpu] = VcpuPower::On;
        self.vcpus[vcpu].on.store(true, Ordering::Relaxed);
        drop(lifecycle);
        state.reset(entry.pc, entry.context);
        timer::changed(&Context { vm: self, vcpu, host }, &state.timer);
        let effects = self.gic.lock().set_online(vcpu, true);
        self.pay(host, effects);
        true
    }

    /// Stops the VM: no vCPU starts any more. Returns true for the one caller who now has to take all vCPUs off their CPUs, and
    /// then to call [`Vm::settle`]; a VM that is stopping already only turns from a reset to an end.
    pub fn stop(&self, power: Power) -> bool {
        let _lifecycle = self.lifecycle.lock();
        let phase = self.phase();
        let first = matches!(phase, Phase::Loading | Phase::Running);
        if first || (phase, power) == (Phase::Stopping(Power::Reset), Power::Off) {
            self.set_phase(Phase::Stopping(power));
        }
        first
    }

    /// All vCPUs of a VM that is stopping in this way have left their CPUs: it has stopped for good, or is to be loaded again.
    /// Returns false if it is not stopping like this (any more).
    pub fn settle(&self, power: Power) -> bool {
        let _lifecycle = self.lifecycle.lock();
        let settles = self.phase() == Phase::Stopping(power);
        if settles {
            self.set_phase(match power {
                Power::Off => Phase::Stopped,
                Power::Reset => Phase::Loading,
            });
        }
        settles
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.store(phase.to_u8(), Ordering::Release);
    }

    /// The vCPU with this affinity (MPIDR_EL1's Aff3 to Aff0).
    pub fn vcpu_of(&self, affinity: u64) -> Option<usize> {
        (0..self.vcpus.len()).find(|&vcpu| u64::from(vgic::affinity(vcpu)) == affinity)
    }

    /// Sets the level of a PPI of `vcpu`, or of an SPI.
    pub fn line(&self, host: &impl Host, vcpu: usize, intid: u16, level: bool) {
        let effects = self.gic.lock().line(vcpu, intid, level);
        self.pay(host, effects);
    }

    /// Brings the list registers of the CPU that has `vcpu` loaded up to date: [`Vgic::deliver`].
    #[inline(always)]
    pub fn deliver(&self, vcpu: usize, hw: &mut impl ListRegisters) -> Option<Effects> {
        let posted = &self.vcpus[vcpu].posted;
        self.gic.lock().deliver(vcpu, posted, hw)
    }

    /// Has the vGIC hear of what is on the way to `vcpu`, if there is one: [`Vgic::absorb`].
    pub fn absorb(&self, vcpu: usize, gic: &mut Vgic) {
        if let Some(Vcpu { posted, .. }) = self.vcpus.get(vcpu) {
            gic.absorb(vcpu, posted);
        }
    }

    /// Sends an SGI.
    #[inline]
    pub(crate) fn send(&self, host: &impl Host, sgi: Sgi) {
        sgi.targets.iter().for_each(|vcpu| self.vcpus[vcpu].posted.post(sgi));
        self.pay(host, Effects { kick: sgi.targets, deactivate: false });
    }

    /// Rings the bell of a channel. What that owes is the caller's to pay.
    pub fn ring(&self, channel: usize) -> Effects {
        self.gic.lock().pulse(0, bus::channel_intid(channel))
    }

    /// Tells the host what a change of the vGIC owes, if anything.
    pub(crate) fn pay(&self, host: &impl Host, effects: Effects) {
        if effects != Effects::NONE {
            host.interrupts(self, effects);
        }
    }

    /// The VM's counter (CNTVCT, and what it sees as CNTPCT).
    pub fn counter(&self, host: &impl Host) -> u64 {
        host.counter().wrapping_sub(self.cntvoff())
    }

    /// CNTVOFF_EL2: the physical counter minus the VM's, modulo 2^64.
    pub fn cntvoff(&self) -> u64 {
        self.cntvoff.load(Ordering::Relaxed)
    }

    /// Sets [`Vm::cntvoff`], while no vCPU runs.
    pub fn set_cntvoff(&self, offset: u64) {
        self.cntvoff.store(offset, Ordering::Relaxed);
    }

    /// A time on the VM's counter as one on the physical counter: the ends of its range stand for what lies beyond.
    pub fn to_physical(&self, at: u64) -> u64 {
        at.saturating_add_signed(self.cntvoff() as i64)
    }
}

/// A vGIC after reset, whose virtual timers are the hardware's.
fn new_gic(config: vgic::Config) -> Option<Vgic> {
    let mut gic = Vgic::new(config).ok()?;
    for vcpu in 0..config.vcpus {
        gic.map_hw(vcpu, CNTV_INTID, CNTV_INTID);
    }
    Some(gic)
}

/// MPIDR_EL1 of a vCPU: bit 31 is RES1, the affinity as the vGIC has it.
fn mpidr(vcpu: usize) -> u64 {
    1 << 31 | u64::from(vgic::affinity(vcpu))
}

#[cfg(test)]
mod tests;
