//! From the boot loader's jump to Rust, on every CPU.
//!
//! The primary CPU enters at `__image_start` by the arm64 boot protocol (Linux `Documentation/arch/arm64/booting.rst`): EL2,
//! MMU and caches off, x0 = device tree. It relocates the image, clears `.bss`, maps the two GiB that hold image and device
//! tree, and calls the program's entry ([`crate::entry!`]). Secondary CPUs come in at [`secondary_entry`] later and find their
//! index by MPIDR.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{Readable, TTBR0_EL2};

use crate::cpu::{CpuLocal, LOCALS};
use crate::{MAX_CPUS, STACK_SIZE, cache, image, mmu};

/// A CPU's EL2 stack above an unmapped guard page ([`mmu`] leaves it out).
#[repr(C, align(4096))]
pub(crate) struct Stack {
    pub(crate) guard: [u8; crate::PAGE],
    pub(crate) bytes: [u8; STACK_SIZE],
}

/// Written by the CPUs' stack pointers only.
#[repr(transparent)]
pub(crate) struct Stacks(core::cell::UnsafeCell<[Stack; MAX_CPUS]>);
// SAFETY: nothing in Rust reads or writes the bytes; each CPU uses the stack of its own index.
unsafe impl Sync for Stacks {}

#[unsafe(link_section = ".stacks")]
pub(crate) static STACKS: Stacks =
    Stacks(core::cell::UnsafeCell::new([const { Stack { guard: [0; _], bytes: [0; _] } }; MAX_CPUS]));

impl Stacks {
    /// The physical (= virtual) address of the guard page of CPU `index`.
    pub(crate) fn guard(&self, index: usize) -> usize {
        self.0.get() as usize + index * size_of::<Stack>()
    }
}

/// The level 1 table of the boot mapping: up to two 1 GiB blocks.
#[repr(C, align(4096))]
struct BootTable([AtomicU64; 512]);
static BOOT_TABLE: BootTable = BootTable([const { AtomicU64::new(0) }; 512]);

/// MPIDR affinity of each CPU index, for a secondary to find itself; bit 63 marks a valid entry.
static AFFINITY: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// The translation table that secondary CPUs start with.
static SECONDARY_TTBR: AtomicU64 = AtomicU64::new(0);

const VALID: u64 = 1 << 63;

global_asm!(
    include_str!("boot.S"),
    TCR = const mmu::TCR,
    MAIR = const mmu::MAIR,
    SCTLR_ON = const mmu::SCTLR_ON,
    SCTLR_OFF = const mmu::SCTLR_OFF,
    BLOCK = const mmu::BOOT_BLOCK,
    BOOT_TABLE = sym BOOT_TABLE,
    STACKS = sym STACKS,
    STACK = const size_of::<Stack>(),
    LOCALS = sym LOCALS,
    LOCAL = const size_of::<CpuLocal>(),
    AFFINITY = sym AFFINITY,
    MAX_CPUS = const MAX_CPUS,
    SECONDARY_TTBR = sym SECONDARY_TTBR,
    VECTORS = sym crate::vectors::mobivmm_vectors,
);

unsafe extern "C" {
    fn mobivmm_secondary_entry();
}

/// Where the firmware must send a secondary CPU (physical address), by PSCI CPU_ON or a spin table.
pub fn secondary_entry() -> u64 {
    mobivmm_secondary_entry as *const () as u64
}

/// Tells the CPUs with these MPIDR affinities (in the order of their indices) who they are. To be called by the primary, after
/// [`mmu::Map::activate`] and before the first secondary starts.
pub fn prepare_secondaries(mpidrs: &[u64]) {
    SECONDARY_TTBR.store(TTBR0_EL2.get(), Ordering::Relaxed);
    for (slot, mpidr) in AFFINITY.iter().zip(mpidrs) {
        slot.store(mpidr & 0xff_00ff_ffff | VALID, Ordering::Relaxed);
    }
    // A secondary reads these with its caches off.
    cache::clean(AFFINITY.as_ptr() as usize, size_of_val(&AFFINITY));
    cache::clean((&raw const SECONDARY_TTBR) as usize, 8);
    cache::clean(image::range().start, image::text_end() - image::range().start);
}

/// Names the functions that the CPUs run once they are in Rust: `primary(dtb: u64) -> !` (x0 of the boot protocol, unchecked) and
/// `secondary(index: usize) -> !`.
#[macro_export]
macro_rules! entry {
    ($primary:path, $secondary:path) => {
        #[unsafe(export_name = "mobivmm_primary")]
        extern "C" fn mobivmm_primary(dtb: u64) -> ! {
            $primary(dtb)
        }
        #[unsafe(export_name = "mobivmm_secondary")]
        extern "C" fn mobivmm_secondary(index: usize) -> ! {
            $secondary(index)
        }
    };
}
