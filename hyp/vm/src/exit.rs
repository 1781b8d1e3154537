//! Why a guest came to EL2: the syndrome registers decoded, without a look at anything else.
//!
//! Arm ARM (Arm DDI 0487), ESR_EL2 and HPFAR_EL2.

/// One synchronous exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What happened.
    pub trap: Trap,
    /// Bytes of the instruction that trapped: 4, or 2 (ESR_EL2.IL = 0: a 16-bit T32 instruction at EL0).
    pub len: u8,
}

/// The cause of an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// HVC from AArch64. The guest's PC is already behind the instruction. It may be answered by x0 to x18 alone: the rest of the
    /// state need not be current, nor is it loaded again if the guest just goes on.
    Hvc {
        /// The instruction's immediate.
        imm: u16,
    },
    /// SMC from AArch64, trapped by HCR_EL2.TSC. The guest's PC is at the instruction.
    Smc {
        /// The instruction's immediate.
        imm: u16,
    },
    /// WFI or WFE.
    Wfx {
        /// WFE (or WFET) instead of WFI (or WFIT).
        wfe: bool,
    },
    /// MSR, MRS or a system instruction.
    SysReg(SysRegAccess),
    /// Stage-2 data abort.
    DataAbort(DataAbort),
    /// Stage-2 instruction abort.
    InstrAbort(InstrAbort),
    /// SError taken as a synchronous exit.
    SError,
    /// Any other exception class: SVE, SME, coprocessor accesses of a 32-bit EL0, and what no guest can cause.
    Other {
        /// ESR_EL2.EC.
        ec: u8,
    },
}

/// A system register as instructions name it, and ESR_EL2 of their traps: the fields Op0, Op2, Op1, CRn and CRm of the ISS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SysReg(u32);

impl SysReg {
    /// The register S`op0`_`op1`_C`crn`_C`crm`_`op2`.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            (op0 as u32 & 3) << 20
                | (op2 as u32 & 7) << 17
                | (op1 as u32 & 7) << 14
                | (crn as u32 & 15) << 10
                | (crm as u32 & 15) << 1,
        )
    }

    /// One of 256 places for the register in a table.
    #[inline]
    pub(crate) const fn hash(self, multiplier: u32) -> usize {
        (self.0.wrapping_mul(multiplier) >> 24) as usize
    }

    /// op0, op1, CRn, CRm, op2.
    pub fn parts(self) -> (u8, u8, u8, u8, u8) {
        let field = |shift: u32, mask: u32| (self.0 >> shift & mask) as u8;
        (field(20, 3), field(14, 7), field(10, 15), field(1, 15), field(17, 7))
    }
}

impl core::fmt::Debug for SysReg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (op0, op1, crn, crm, op2) = self.parts();
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

/// A trapped MSR, MRS or system instruction, as the ISS has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysRegAccess(u32);

/// What a stage-2 fault status code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No translation.
    Translation,
    /// The access flag is clear.
    AccessFlag,
    /// A right is missing.
    Permission,
    /// An address beyond the configured size.
    AddressSize,
    /// Synchronous external abort or parity error, on the access or on a table walk.
    External,
    /// Alignment.
    Alignment,
    /// TLB conflict.
    TlbConflict,
    /// Unsupported exclusive or atomic access: to memory that is not normal write-back.
    UnsupportedAtomic,
    /// Any other code.
    Other(u8),
}

impl Fault {
    /// Decodes DFSC or IFSC: the two share their encoding.
    fn decode(fsc: u8) -> Self {
        match fsc {
            0x00..=0x03 | 0x29 => Self::AddressSize,
            0x04..=0x07 | 0x2b => Self::Translation,
            0x08..=0x0b => Self::AccessFlag,
            0x0c..=0x0f => Self::Permission,
            0x10 | 0x13..=0x18 | 0x1b..=0x1f => Self::External,
            0x21 => Self::Alignment,
            0x30 => Self::TlbConflict,
            0x35 => Self::UnsupportedAtomic,
            other => Self::Other(other),
        }
    }
}

/// A stage-2 data abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort {
    /// The faulting virtual address (FAR_EL2), unless ESR_EL2.FnV says that there is none.
    pub va: Option<u64>,
    /// The intermediate physical address. None where HPFAR_EL2 is UNKNOWN: see [`Exit::decode`].
    pub ipa: Option<u64>,
    /// Which fault.
    pub fault: Fault,
    /// A write (WnR); also set for a cache maintenance instruction.
    pub write: bool,
    /// A cache maintenance or address translation instruction.
    pub cache_maintenance: bool,
    /// The fault was on a walk of the guest's own tables.
    pub s1ptw: bool,
    /// The access, if the syndrome describes it (ISV).
    pub access: Option<Access>,
}

/// A load or store of one general-purpose register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// The register: 31 is XZR.
    pub rt: u8,
    /// A load that sign-extends.
    pub sign_extend: bool,
    /// The register is 64 bits wide, else 32.
    pub wide: bool,
}

/// A stage-2 instruction abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstrAbort {
    /// The faulting virtual address (FAR_EL2), unless ESR_EL2.FnV says that there is none.
    pub va: Option<u64>,
    /// The intermediate physical address. None where HPFAR_EL2 is UNKNOWN: see [`Exit::decode`].
    pub ipa: Option<u64>,
    /// Which fault.
    pub fault: Fault,
    /// The fault was on a walk of the guest's own tables.
    pub s1ptw: bool,
}

impl Exit {
    /// Decodes ESR_EL2, FAR_EL2 and HPFAR_EL2.
    ///
    /// HPFAR_EL2 is valid for translation, access flag and address size faults, and for every fault on a stage-1
    /// walk; after another fault it is UNKNOWN, and [`DataAbort::ipa`] is None.
    pub fn decode(esr: u64, far: u64, hpfar: u64) -> Self {
        let ec = class(esr);
        let imm = esr as u16;
        let trap = match ec {
            0x01 => Trap::Wfx { wfe: is_wfe(esr) },
            0x16 => Trap::Hvc { imm },
            0x17 => Trap::Smc { imm },
            0x18 => Trap::SysReg(SysRegAccess::decode(esr)),
            0x20 => Trap::InstrAbort(InstrAbort::decode(esr, far, hpfar)),
            0x24 => Trap::DataAbort(DataAbort::decode(esr, far, hpfar)),
            0x2f => Trap::SError,
            _ => Trap::Other { ec },
        };
        Self { trap, len: instruction_len(esr) }
    }
}

/// ESR_EL2.EC.
pub(crate) const fn class(esr: u64) -> u8 {
    (esr >> 26 & 0x3f) as u8
}

/// TI of a trapped WFx: WFE or WFET.
pub(crate) const fn is_wfe(esr: u64) -> bool {
    esr & 1 != 0
}

/// Bytes of the instruction that trapped, from ESR_EL2.IL.
pub(crate) const fn instruction_len(esr: u64) -> u8 {
    2 + (esr >> 24 & 2) as u8
}

impl SysRegAccess {
    #[inline]
    pub(crate) const fn decode(esr: u64) -> Self {
        Self(esr as u32 & 0x3f_ffff)
    }

    /// An access to `reg` and the general-purpose register `rt` (31 is XZR).
    pub const fn new(reg: SysReg, rt: u8, write: bool) -> Self {
        Self(reg.0 | (rt as u32) << 5 | !write as u32)
    }

    /// The register, or the system instruction.
    pub const fn reg(self) -> SysReg {
        SysReg(self.0 & SysReg::new(3, 7, 15, 15, 7).0)
    }

    /// The general-purpose register: 31 is XZR.
    pub const fn rt(self) -> u8 {
        (self.0 >> 5 & 31) as u8
    }

    /// MSR (or SYS) instead of MRS (or SYSL).
    pub const fn is_write(self) -> bool {
        self.0 & 1 == 0
    }
}

impl InstrAbort {
    fn decode(esr: u64, far: u64, hpfar: u64) -> Self {
        let (va, ipa, fault, s1ptw) = fault_address(esr, far, hpfar);
        Self { va, ipa, fault, s1ptw }
    }
}

impl Access {
    /// From the fields that ISV makes valid.
    #[inline]
    pub(crate) const fn decode(esr: u64) -> Self {
        Self {
            size: 1 << (esr >> 22 & 3),
            rt: (esr >> 16 & 31) as u8,
            sign_extend: esr & 1 << 21 != 0,
            wide: esr & 1 << 15 != 0,
        }
    }
}

impl DataAbort {
    pub(crate) fn decode(esr: u64, far: u64, hpfar: u64) -> Self {
        let (va, ipa, fault, s1ptw) = fault_address(esr, far, hpfar);
        Self {
            va,
            ipa,
            fault,
            write: esr & 1 << 6 != 0,
            cache_maintenance: esr & 1 << 8 != 0,
            s1ptw,
            access: (esr & ISV != 0).then(|| Access::decode(esr)),
        }
    }
}

/// ESR_EL2.ISV of a data abort.
pub(crate) const ISV: u64 = 1 << 24;

/// VA, IPA, fault and S1PTW of an abort: the fields that data and instruction aborts share.
fn fault_address(esr: u64, far: u64, hpfar: u64) -> (Option<u64>, Option<u64>, Fault, bool) {
    let s1ptw = esr & 1 << 7 != 0;
    let fault = Fault::decode((esr & 0x3f) as u8);
    let va = (esr & 1 << 10 == 0).then_some(far);
    let known = s1ptw || matches!(fault, Fault::Translation | Fault::AccessFlag | Fault::AddressSize);
    // FIPA holds IPA[51:12] in bits [43:4]; the offset in the page is FAR's, but for a walk it is the
    // descriptor's, which nobody reports.
    let offset = if s1ptw { 0 } else { far & 0xfff };
    let ipa = known.then_some((hpfar & 0xfff_ffff_fff0) << 8 | offset);
    (va, ipa, fault, s1ptw)
}

#[cfg(test)]
mod tests;
