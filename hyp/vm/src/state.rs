//! What a vCPU is: the registers of an EL1 guest as plain data.
//!
//! The world switch of `hyp/arch` stores and loads these fields by their offsets; everything else reads and
//! writes them as data. While a vCPU is loaded on a physical CPU only [`VcpuState::gprs`], [`VcpuState::pc`] and
//! [`VcpuState::pstate`] are current after an exit; the rest lives in the hardware until
//! [`Host::sync`](crate::Host::sync) brings it here.

/// SPSR_EL2 / PSTATE fields (Arm ARM, SPSR_EL2).
pub mod pstate {
    /// M\[3:0\]: EL1 with SP_EL1.
    pub const EL1H: u64 = 0b0101;
    /// M\[3:0\]: the exception level and the stack pointer of AArch64.
    pub const MODE: u64 = 0b1111;
    /// M\[4\]: AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// AArch32: the T32 instruction set.
    pub const T32: u64 = 1 << 5;
    /// The masks D, A, I and F.
    pub const DAIF: u64 = 0xf << 6;
    /// BTYPE, where FEAT_BTI exists.
    pub const BTYPE: u64 = 0b11 << 10;
    /// SSBS, where FEAT_SSBS exists (AArch64).
    pub const SSBS: u64 = 1 << 12;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Privileged access never, where FEAT_PAN exists.
    pub const PAN: u64 = 1 << 22;
    /// Data-independent timing, where FEAT_DIT exists.
    pub const DIT: u64 = 1 << 24;
    /// The condition flags.
    pub const NZCV: u64 = 0xf << 28;
}

/// All of one vCPU's registers.
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuState {
    /// x0 to x30.
    pub gprs: [u64; 31],
    /// The next instruction's address (ELR_EL2).
    pub pc: u64,
    /// PSTATE as SPSR_EL2 holds it; see [`pstate`].
    pub pstate: u64,
    /// HCR_EL2 bits that this vCPU needs beyond those of every guest: [`HCR_TVM`] or nothing.
    pub hcr: u64,
    /// System registers of EL1 and EL0.
    pub sys: El1Regs,
    /// Virtual and physical timer.
    pub timer: VTimer,
    /// The virtual interrupt controller's CPU interface.
    pub interface: Interface,
    /// SIMD and floating point.
    pub fp: FpRegs,
}

/// HCR_EL2.TVM: writes to the virtual memory controls trap (set/way maintenance bookkeeping).
pub const HCR_TVM: u64 = 1 << 26;

/// SCTLR_EL1 after reset: the bits that are RES1 in ARMv8.0.
const SCTLR_RES1: u64 = 0x30d0_0800;
/// [`El1Regs::oslock`]: the OS lock is locked.
pub(crate) const OSLOCK_LOCKED: u64 = 1;

impl VcpuState {
    /// Xn, where 31 is the zero register.
    pub fn x(&self, n: u8) -> u64 {
        self.gprs.get(usize::from(n)).copied().unwrap_or(0)
    }

    /// Sets Xn; a write to 31, the zero register, is dropped.
    pub fn set_x(&mut self, n: u8, value: u64) {
        if let Some(reg) = self.gprs.get_mut(usize::from(n)) {
            *reg = value;
        }
    }

    /// Whether the guest runs AArch32 code (at EL0: EL1 is AArch64 always).
    pub fn aarch32(&self) -> bool {
        self.pstate & pstate::AARCH32 != 0
    }

    /// Whether the guest is at EL0.
    pub fn el0(&self) -> bool {
        self.pstate & pstate::MODE == 0
    }

    /// The state of a vCPU that PSCI starts (Arm DEN 0022E, CPU_ON): EL1h, everything masked, MMU and caches off.
    /// x0 = `context`, PC = `entry`.
    pub fn reset(&mut self, entry: u64, context: u64) {
        // Field by field, so that no second state is made to be copied.
        self.gprs = [0; 31];
        self.gprs[0] = context;
        self.pc = entry;
        self.pstate = pstate::DAIF | pstate::EL1H;
        self.hcr = 0;
        let mpidr = self.sys.mpidr;
        self.sys = El1Regs { mpidr, sctlr: SCTLR_RES1, oslock: OSLOCK_LOCKED, ..El1Regs::default() };
        self.timer = VTimer::default();
        self.interface = Interface::default();
        self.fp = FpRegs::default();
    }
}

/// The system registers of EL1 and EL0 that a guest owns, in the order in which the world switch moves pairs of them.
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "each field is the register of its name, suffix _EL1 unless it says otherwise"
)]
pub struct El1Regs {
    pub mpidr: u64,
    pub actlr: u64,
    pub sctlr: u64,
    pub tcr: u64,
    pub ttbr0: u64,
    pub ttbr1: u64,
    pub cpacr: u64,
    pub esr: u64,
    pub afsr0: u64,
    pub afsr1: u64,
    pub far: u64,
    pub mair: u64,
    pub amair: u64,
    pub vbar: u64,
    pub contextidr: u64,
    pub tpidr_el0: u64,
    pub tpidrro_el0: u64,
    pub tpidr: u64,
    pub sp_el0: u64,
    pub sp: u64,
    pub elr: u64,
    pub spsr: u64,
    pub par: u64,
    pub csselr: u64,
    pub cntkctl: u64,
    pub mdscr: u64,
    /// OSLSR_EL1.OSLK as the guest sees it. Never loaded into hardware.
    pub oslock: u64,
    /// Pointer authentication keys, low and high word: loaded where FEAT_PAuth exists.
    pub apia: [u64; 2],
    pub apib: [u64; 2],
    pub apda: [u64; 2],
    pub apdb: [u64; 2],
    pub apga: [u64; 2],
}

/// SIMD and floating-point registers.
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FpRegs {
    /// V0 to V31.
    pub v: [u128; 32],
    /// FPCR.
    pub fpcr: u64,
    /// FPSR.
    pub fpsr: u64,
}

/// The timers. CNTV is the hardware's; CNTP is emulated, so its fields are always current.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VTimer {
    /// CNTV_CTL_EL0.
    pub cntv_ctl: u64,
    /// CNTV_CVAL_EL0, in ticks of the VM's counter.
    pub cntv_cval: u64,
    /// CNTP_CTL_EL0 without ISTATUS, which is computed.
    pub cntp_ctl: u64,
    /// CNTP_CVAL_EL0, in ticks of the VM's counter.
    pub cntp_cval: u64,
}

/// The virtual CPU interface's registers that no list register has, raw: of GICv2 (GICH_*) or GICv3 (ICH_*_EL2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// VMCR.
    pub vmcr: u32,
    /// The active priorities registers of Groups 0 and 1; a GICv2 has one, the first of Group 0.
    pub active_priorities: [[u32; 4]; 2],
}
