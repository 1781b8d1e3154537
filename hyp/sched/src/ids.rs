//! Names for vCPUs and CPUs, sets of them, and tables by them.

use core::ops::{Index, IndexMut};

/// Nanoseconds since boot, or a span of them.
pub type Ns = u64;

/// A virtual CPU, machine-wide and dense: below [`MAX_VCPUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u16);

/// A physical CPU: its dense index in device-tree order, below [`MAX_CPUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u8);

impl CpuId {
    /// Its place in arrays.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize % MAX_CPUS
    }
}

/// A virtual machine, as far as its vCPUs share CPU time with others': below [`MAX_VMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(pub u8);

/// How many vCPUs the machine can have.
pub const MAX_VCPUS: usize = 64;
/// How many VMs can have a share.
pub const MAX_VMS: usize = 16;
/// How many CPUs the machine can have.
pub const MAX_CPUS: usize = 8;

/// An array of `N` entries, a power of two, whose indices wrap, so that none needs to be checked.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Table<T, const N: usize>(pub(crate) [T; N]);

impl<T, const N: usize> Index<usize> for Table<T, N> {
    type Output = T;

    #[inline(always)]
    fn index(&self, n: usize) -> &T {
        &self.0[n % N]
    }
}

impl<T, const N: usize> IndexMut<usize> for Table<T, N> {
    #[inline(always)]
    fn index_mut(&mut self, n: usize) -> &mut T {
        &mut self.0[n % N]
    }
}

/// A set of physical CPUs: bit n is CPU n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CpuSet(pub u64);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: Self = Self(0);
    /// Every CPU that a machine can have.
    pub const ALL: Self = Self((1 << MAX_CPUS) - 1);

    /// The set of just `cpu`.
    pub const fn only(cpu: CpuId) -> Self {
        Self(if (cpu.0 as usize) < MAX_CPUS { bit(cpu.0 as usize) } else { 0 })
    }

    /// The CPUs 0 to `n` - 1.
    pub const fn first(n: usize) -> Self {
        Self(if n < 64 { (1 << n) - 1 } else { u64::MAX })
    }

    /// Whether `cpu` is in the set.
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 & Self::only(cpu).0 != 0
    }

    /// Whether no CPU is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The CPUs that are in both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The CPUs that are not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The CPUs that are in one of the sets.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// How many CPUs are in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Adds every CPU of `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Takes `cpu` out.
    pub const fn remove(&mut self, cpu: CpuId) {
        self.0 &= !Self::only(cpu).0;
    }

    /// The members, lowest first.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        bits(self.0).map(|n| CpuId(n as u8))
    }
}

/// The mask with bit `n` set, which is below 64.
pub(crate) const fn bit(n: usize) -> u64 {
    1 << (n % 64)
}

/// The mask with the bits `numbers` set, each below 64.
pub(crate) fn mask(numbers: impl Iterator<Item = usize>) -> u64 {
    numbers.fold(0, |mask, n| mask | bit(n))
}

/// The numbers of the bits that are set in `mask`, lowest first.
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let n = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            n
        })
    })
}
