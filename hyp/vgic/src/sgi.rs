//! SGIs on their way from one vCPU to another, which nobody needs the vGIC's lock for.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::VcpuSet;

/// The SGI generation registers of GICv3. With one Security state the first generates Group 1 SGIs, the others Group 0 ones
/// (Arm IHI 0069H, "Use of control registers for SGI forwarding").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgiRegister {
    /// ICC_SGI1R_EL1.
    Sgi1r,
    /// ICC_SGI0R_EL1.
    Sgi0r,
    /// ICC_ASGI1R_EL1.
    Asgi1r,
}

/// An SGI, and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sgi {
    /// The vCPUs to post it to.
    pub targets: VcpuSet,
    /// Its bit in [`Posted`], of 128.
    bit: u8,
}

impl Sgi {
    /// A write of GICD_SGIR by `vcpu`, of so many (GICv2: Arm IHI 0048B, section 4.3.15).
    #[inline]
    pub fn from_sgir(value: u64, vcpu: usize, vcpus: usize) -> Sgi {
        let all = VcpuSet::first(vcpus);
        let targets = match value >> 24 & 3 {
            0 => VcpuSet(value >> 16 & 0xff & all.0),
            1 => all.without(vcpu),
            2 => VcpuSet::one(vcpu),
            _ => VcpuSet::EMPTY,
        };
        Sgi { targets, bit: (value & 0xf) as u8 * 8 + (vcpu & 7) as u8 }
    }

    /// A write of an SGI generation register by `vcpu`, of so many (GICv3: Arm IHI 0069H, section 12.2).
    #[inline]
    pub fn from_register(register: SgiRegister, value: u64, vcpu: usize, vcpus: usize) -> Sgi {
        let all = VcpuSet::first(vcpus);
        let (aff1, list) = ((value >> 16 & 0xff) as u32, value & 0xffff);
        // Bits 55:44 and 39:32, RS, Aff3 and Aff2: no vCPU has another than 0.
        let targets = if value >> 40 & 1 != 0 {
            all.without(vcpu)
        } else if value & 0x00ff_f0ff_0000_0000 == 0 {
            VcpuSet(list.checked_shl(aff1 * 16).unwrap_or(0) & all.0)
        } else {
            VcpuSet::EMPTY
        };
        Sgi { targets, bit: (value >> 24 & 0xf) as u8 * 8 + u8::from(register != SgiRegister::Sgi1r) }
    }
}

/// The SGIs that were sent to a vCPU, and that [`Vgic`](crate::Vgic) has not yet heard of: a byte each, which has a bit for each sender
/// (GICv2), or one for Group 1 and one for Group 0 (GICv3), whichever was meant.
#[derive(Debug, Default)]
pub struct Posted([AtomicU64; 2]);

impl Posted {
    /// Adds an SGI. The vCPU must then be told, by a release that it acquires before it looks here: as after [`Effects::kick`].
    ///
    /// [`Effects::kick`]: crate::Effects::kick
    #[inline]
    pub fn post(&self, sgi: Sgi) {
        // Release: what the sender has written before, the receiver sees when it has the interrupt.
        self.0[usize::from(sgi.bit / 64) % 2].fetch_or(1 << (sgi.bit % 64), Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|half| half.load(Ordering::Relaxed) == 0)
    }

    /// The first SGI of the half in which all are, 0 or 8.
    #[inline]
    pub(crate) fn first(&self) -> Option<usize> {
        match self.0.each_ref().map(|half| half.load(Ordering::Relaxed) != 0) {
            [true, false] => Some(0),
            [false, true] => Some(8),
            _ => None,
        }
    }

    /// Takes the SGIs from 0 on, or from 8 on: SGI `first` is the lowest byte.
    #[inline]
    pub(crate) fn take(&self, first: usize) -> u64 {
        let half = &self.0[first / 8 % 2];
        match half.load(Ordering::Relaxed) {
            0 => 0,
            _ => half.swap(0, Ordering::Acquire),
        }
    }

    /// Forgets all that there are.
    pub fn clear(&self) {
        HALVES.iter().for_each(|&first| _ = self.take(first));
    }
}

/// The first SGI of each half.
pub(crate) const HALVES: [usize; 2] = [0, 8];
