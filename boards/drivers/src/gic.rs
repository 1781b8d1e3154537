//! The physical interrupt controller and its interface for hypervisors: GICv2 and GICv3 behind one face.
//!
//! EOImode is 1 throughout: [`Gic::priority_drop`] after taking an interrupt, and deactivation apart from it, by
//! [`Gic::deactivate`] or, for an interrupt that a list register is mapped to, by the guest's own EOI.
//!
//! A `cpu` argument is the calling CPU's index, since SGIs and PPIs (INTIDs below 32) are banked by CPU; it does not matter
//! for SPIs. The list registers and everything else from [`Gic::list_registers`] on are the calling CPU's, too. Values
//! of registers are raw; their formats are the vGIC's affair.
//!
//! Own drivers, since arm-gic has no EOImode = 1, no active-state control and none of the hypervisor interface, which
//! are all that a hypervisor needs of a GIC.

use core::fmt;
use core::ops::Range;

use crate::gicv2::GicV2;
use crate::gicv3::GicV3;

/// The priority of a CPU's own interrupts, SGIs and PPIs; lower is more urgent. Non-secure software has 16 levels at least.
pub const CPU_PRIORITY: u8 = 0xa0;
/// The priority of devices' interrupts, SPIs.
pub const DEVICE_PRIORITY: u8 = 0xc0;

/// The priority mask that lets everything through, or only what is more urgent than devices.
pub(crate) const fn priority_mask(devices: bool) -> u8 {
    if devices { 0xff } else { DEVICE_PRIORITY }
}

/// Why the GIC cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A register block is smaller than the architecture has it.
    TooSmall,
    /// Its registers are in other use.
    InUse,
    /// No redistributor has the affinity of the CPU with this index.
    NoRedistributor(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall => write!(f, "a register block of the GIC is too small"),
            Self::InUse => write!(f, "its registers are in other use"),
            Self::NoRedistributor(cpu) => write!(f, "CPU {cpu} has no GIC redistributor"),
        }
    }
}

/// An interrupt that this CPU has acknowledged: its INTID and, for a GICv2 SGI, the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Acknowledged(pub(crate) u32);

impl Acknowledged {
    /// The INTID.
    pub const fn intid(self) -> u32 {
        // Bits 12:10 of a GICv2's are the sender, and a GICv3 has no INTIDs from 1,024 on without LPIs.
        self.0 & 0x3ff
    }
}

/// The active priorities registers of Groups 0 and 1: those of a GICv3 (ICH_AP0R\<n\>_EL2, ICH_AP1R\<n\>_EL2), or a GICv2's GICH_APR
/// as the first.
pub type ActivePriorities = [[u32; 4]; 2];

/// The interrupt controller.
#[derive(Debug)]
pub enum Gic {
    /// GICv2.
    V2(GicV2),
    /// GICv3 or later, by system registers.
    V3(GicV3),
}

macro_rules! both {
    ($($(#[$doc:meta])* fn $name:ident(&$($this:ident)+ $(, $arg:ident: $type:ty)*) $(-> $ret:ty)?;)*) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $name(&$($this)+ $(, $arg: $type)*) $(-> $ret)? {
            both!(@last $($this)+; $name($($arg),*))
        }
    )*};
    (@last mut $this:ident; $($call:tt)*) => { both!(@last $this; $($call)*) };
    (@last $this:ident; $($call:tt)*) => {
        match $this {
            Gic::V2(gic) => gic.$($call)*,
            Gic::V3(gic) => gic.$($call)*,
        }
    };
}

impl fmt::Display for Gic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if matches!(self, Self::V2(_)) { 2 } else { 3 };
        write!(f, "GICv{version} with {} list registers", self.list_registers())
    }
}

impl Gic {
    both! {
        /// Turns the distributor on, with every SPI disabled, inactive, not pending, level-triggered and of
        /// [`DEVICE_PRIORITY`]. Once, before any [`Gic::init_cpu`].
        fn init_distributor(&mut self);
        /// Turns on the calling CPU's interface, which lets devices through, and clears its hypervisor interface. Its
        /// PPIs are as SPIs after [`Gic::init_distributor`] but of [`CPU_PRIORITY`], its SGIs enabled.
        fn init_cpu(&self, cpu: usize);
        /// Lets an interrupt through or not.
        fn set_enabled(&self, cpu: usize, intid: u32, enabled: bool);
        /// Lets devices' interrupts through to the calling CPU, or keeps them waiting.
        fn let_devices(&self, through: bool);
        /// Sends an SPI to a CPU that has been through [`Gic::init_cpu`].
        fn route(&self, intid: u32, to: usize);
        /// Makes a PPI or SPI active, or inactive.
        fn set_active(&self, cpu: usize, intid: u32, active: bool);
        /// Takes the most urgent interrupt, if one is more urgent than the mask and than what has not been dropped.
        fn acknowledge(&self) -> Option<Acknowledged>;
        /// The INTID that [`Gic::acknowledge`] would take now; 1,020 or more: none. Changes nothing.
        fn highest_pending(&self) -> u32;
        /// Lets others of the same priority through again. In the reverse order of acknowledging.
        fn priority_drop(&self, interrupt: Acknowledged);
        /// Ends an interrupt, after its priority drop.
        fn deactivate(&self, interrupt: Acknowledged);
        /// Sends SGI `sgi` (0 to 15) to a CPU that has been through [`Gic::init_cpu`]. What this CPU has written to memory
        /// before is visible to the one that takes it.
        fn send_sgi(&self, sgi: u32, to: usize);
        /// How many list registers every CPU has (VTR.ListRegs + 1).
        fn list_registers(&self) -> usize;
        /// GICH_HCR or ICH_HCR_EL2.
        fn hcr(&self) -> u32;
        /// Writes [`Gic::hcr`].
        fn set_hcr(&self, value: u32);
        /// GICH_VMCR or ICH_VMCR_EL2.
        fn vmcr(&self) -> u32;
        /// Empty list registers, a bit each: GICH_ELRSR or ICH_ELRSR_EL2.
        fn elrsr(&self) -> u16;
        /// Reads [`Gic::vmcr`], and those active priorities registers that there are; the rest of `priorities` is left as it is.
        fn save_interface(&self, vmcr: &mut u32, priorities: &mut ActivePriorities);
        /// Writes VMCR, and those active priorities registers that there are.
        fn load_interface(&self, vmcr: u32, priorities: &ActivePriorities);
    }

    /// Where the virtual CPU interface of a GICv2 is, to be mapped for guests: 8 KiB, of which the second page has the
    /// deactivation register alone. A GICv3 has system registers instead.
    pub fn gicv(&self) -> Option<Range<u64>> {
        match self {
            Self::V2(gic) => Some(gic.gicv()),
            Self::V3(_) => None,
        }
    }
}

/// Makes what this CPU has written to memory visible to CPUs that take an interrupt sent from here on (Arm ARM,
/// "Data Synchronization Barrier").
pub(crate) fn publish_memory() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) };
}
