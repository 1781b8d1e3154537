//! The rest of the world switch: EL1's system registers, FP/SIMD and the virtual timer, between hardware and [`VcpuState`].

use core::arch::{asm, global_asm};

use aarch64_cpu::asm::barrier;

use vm::state::{El1Regs, FpRegs, VcpuState};

use crate::traps;

/// Registers that are saved and loaded alike, by pairs that are neighbours in [`El1Regs`]: one access to memory moves both.
macro_rules! el1_registers {
    ($save:ident, $load:ident: $($a:ident$([$i:literal])? $a_name:literal, $b:ident$([$j:literal])? $b_name:literal;)*) => {
        fn $save(sys: &mut El1Regs) { $((sys.$a$([$i])?, sys.$b$([$j])?) = (read!($a_name), read!($b_name));)* }
        fn $load(sys: &El1Regs) {
            $(
                let (a, b) = (sys.$a$([$i])?, sys.$b$([$j])?);
                write!($a_name, a);
                write!($b_name, b);
            )*
        }
    };
}

// SCTLR, TCR and the TTBRs are apart, since their order matters when they are loaded.
el1_registers! { save_registers, load_registers:
    cpacr "cpacr_el1", esr "esr_el1";
    afsr0 "afsr0_el1", afsr1 "afsr1_el1";
    far "far_el1", mair "mair_el1";
    amair "amair_el1", vbar "vbar_el1";
    contextidr "contextidr_el1", tpidr_el0 "tpidr_el0";
    tpidrro_el0 "tpidrro_el0", tpidr "tpidr_el1";
    sp_el0 "sp_el0", sp "sp_el1";
    elr "elr_el1", spsr "spsr_el1";
    par "par_el1", csselr "csselr_el1";
    cntkctl "cntkctl_el1", mdscr "mdscr_el1";
}

// Pointer authentication keys (FEAT_PAuth), by encoding: the assembler's base architecture does not name them.
el1_registers! { save_keys, load_keys:
    apia[0] "s3_0_c2_c1_0", apia[1] "s3_0_c2_c1_1";
    apib[0] "s3_0_c2_c1_2", apib[1] "s3_0_c2_c1_3";
    apda[0] "s3_0_c2_c2_0", apda[1] "s3_0_c2_c2_1";
    apdb[0] "s3_0_c2_c2_2", apdb[1] "s3_0_c2_c2_3";
    apga[0] "s3_0_c2_c3_0", apga[1] "s3_0_c2_c3_1";
}

/// TCR_EL1.EPD0 and EPD1, no walks: while the EL1 regime is half switched, a speculative AT must not fill the TLB from it (erratum
/// 1319367 of Cortex-A57 and -A72; elsewhere this does no harm).
pub(crate) const TCR_EPD: u64 = (1 << 7) | (1 << 23);

/// What a VM adds to its vCPUs' registers while one of them is loaded.
#[derive(Clone, Copy, Debug)]
pub struct VmRegisters {
    /// VTTBR_EL2: stage 2 root and VMID.
    pub vttbr: u64,
    /// CNTVOFF_EL2: physical counter minus the VM's, ticks.
    pub cntvoff: u64,
}

/// Puts a vCPU's EL1 registers and FP/SIMD onto this CPU; [`load_timer`] is to follow. `stale_tlb` says that another vCPU of the same VM ran here since this one
/// did: its TLB entries share the VMID but need not fit this vCPU's tables (Arm ARM, "Use of ASIDs and VMIDs to
/// reduce TLB maintenance requirements").
pub fn load(state: &VcpuState, vm: &VmRegisters, stale_tlb: bool) {
    reload(state, vm);
    if stale_tlb {
        // SAFETY: drops EL1&0 translations of the VMID just set, on this CPU.
        unsafe { asm!("isb", "tlbi vmalle1", "dsb nsh", options(nostack, preserves_flags)) };
    }
    load_fp(&state.fp);
    write!("cntvoff_el2", vm.cntvoff);
    traps::set_hcr(state.hcr);
}

/// Puts a vCPU's virtual timer onto this CPU: its interrupt may be pending from here on.
pub fn load_timer(state: &VcpuState) {
    write!("cntv_cval_el0", state.timer.cntv_cval);
    write!("cntv_ctl_el0", state.timer.cntv_ctl);
    barrier::isb(barrier::SY);
}

/// Brings the EL1 system registers of the loaded vCPU into `state`; they stay in the hardware too.
#[inline(always)]
pub fn sync(state: &mut VcpuState) {
    let sys = &mut state.sys;
    (sys.sctlr, sys.tcr) = (read!("sctlr_el1"), read!("tcr_el1"));
    (sys.ttbr0, sys.ttbr1) = (read!("ttbr0_el1"), read!("ttbr1_el1"));
    save_registers(sys);
    if traps::pauth() {
        save_keys(sys);
    }
}

/// Puts `state`'s EL1 system registers onto this CPU: part of [`load`], and after [`sync`] and changes to them.
#[inline(always)]
pub fn reload(state: &VcpuState, vm: &VmRegisters) {
    let sys = &state.sys;
    let (sctlr, tcr, ttbr0, ttbr1) = (sys.sctlr, sys.tcr, sys.ttbr0, sys.ttbr1);
    write!("tcr_el1", tcr | TCR_EPD);
    barrier::isb(barrier::SY);
    write!("vttbr_el2", vm.vttbr);
    write!("vmpidr_el2", sys.mpidr);
    write!("ttbr0_el1", ttbr0);
    write!("ttbr1_el1", ttbr1);
    write!("sctlr_el1", sctlr);
    load_registers(sys);
    if traps::pauth() {
        load_keys(sys);
    }
    barrier::isb(barrier::SY);
    write!("tcr_el1", tcr);
}

/// Takes a vCPU off this CPU: registers, FP/SIMD and timer go to `state`, and the virtual timer is off. `synced` says that after a
/// [`sync`] the system registers in `state` are the valid ones.
pub fn save(state: &mut VcpuState, synced: bool) {
    if !synced {
        sync(state);
    }
    save_fp(&mut state.fp);
    sync_timer(state);
    write!("cntv_ctl_el0", 0);
    barrier::isb(barrier::SY);
}

/// Brings the virtual timer's registers into `state`; it goes on running.
pub fn sync_timer(state: &mut VcpuState) {
    state.timer.cntv_ctl = read!("cntv_ctl_el0");
    state.timer.cntv_cval = read!("cntv_cval_el0");
}

unsafe extern "C" {
    fn mobivmm_fp_save(fp: *mut FpRegs);
    fn mobivmm_fp_load(fp: *const FpRegs);
}

global_asm!(
    include_str!("fp.S"),
    FPCR = const core::mem::offset_of!(FpRegs, fpcr),
    V = const core::mem::offset_of!(FpRegs, v),
);

fn save_fp(fp: &mut FpRegs) {
    // SAFETY: stores the 32 vectors, FPCR and FPSR into `fp`; EL2's own code is soft-float and has nothing there.
    unsafe { mobivmm_fp_save(fp) };
}

fn load_fp(fp: &FpRegs) {
    // SAFETY: as above, the other way.
    unsafe { mobivmm_fp_load(fp) };
}

/// The IPA to which the loaded guest's own tables translate `va`, for an access by its EL1 or EL0; `None` if they do not permit it
/// (Arm ARM, AT and PAR_EL1).
pub fn translate(va: u64, write: bool, el0: bool) -> Option<u64> {
    let saved = read!("par_el1");
    // SAFETY: a stage 1 translation; it changes PAR_EL1 alone, which is put back.
    unsafe {
        match (write, el0) {
            (false, false) => asm!("at s1e1r, {}", "isb", in(reg) va, options(nostack, preserves_flags)),
            (true, false) => asm!("at s1e1w, {}", "isb", in(reg) va, options(nostack, preserves_flags)),
            (false, true) => asm!("at s1e0r, {}", "isb", in(reg) va, options(nostack, preserves_flags)),
            (true, true) => asm!("at s1e0w, {}", "isb", in(reg) va, options(nostack, preserves_flags)),
        }
    }
    let par = read!("par_el1");
    write!("par_el1", saved);
    (par & 1 == 0).then_some((par & 0x000f_ffff_ffff_f000) | (va & 0xfff))
}
