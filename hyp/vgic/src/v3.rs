//! The GICv3 face: distributor, redistributors and SGI registers (Arm IHI 0069H, sections 12.8 to 12.11), with affinity
//! routing, one Security state (GICD_CTLR.DS = 1), neither LPIs nor extended ranges. The CPU interface is the
//! hardware's.

use crate::dist::{CTLR, IIDR, IIDR_VALUE, TYPER};
use crate::{Effects, Version, Vgic};

pub(crate) const VCPUS_MAX: usize = 64;

/// Size of one vCPU's redistributor: RD_base and SGI_base frames of 64 KiB. They are contiguous, in vCPU order.
pub const GICR_STRIDE: u64 = 0x2_0000;
const FRAME: usize = 0x1_0000;

/// GICD_CTLR.ARE and .DS, which are read-only here.
const CTLR_ARE_DS: u64 = 1 << 4 | 1 << 6;
const IROUTER: usize = 0x6000;
/// Interrupt_Routing_Mode: any participating vCPU.
const IROUTER_ANY: u32 = 1 << 31;
/// Aff3 is always zero (GICD_TYPER.A3V = 0).
const IROUTER_MASK: u32 = IROUTER_ANY | 0xff_ffff;
/// PIDR2: architecture revision 3, Arm.
const PIDR2: usize = 0xffe8;
const PIDR2_VALUE: u64 = 0x3b;

const GICR_IIDR: usize = 0x004;
const GICR_TYPER: usize = 0x008;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_WAKER: usize = 0x014;
const WAKER_PROCESSOR_SLEEP: u64 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u64 = 1 << 2;

/// The affinity of vCPU n, as in the lower half of MPIDR_EL1: 16 to a cluster, since a target list of ICC_SGI1R_EL1
/// holds 16.
pub const fn affinity(vcpu: usize) -> u32 {
    ((vcpu >> 4) << 8 | vcpu & 0xf) as u32
}

/// The part of a 64-bit register that an access of `size` bytes at `offset` reads.
fn part(register: u64, offset: usize, size: usize) -> u64 {
    match size {
        8 => register,
        4 => register >> (offset % 8 * 8) & 0xffff_ffff,
        _ => 0,
    }
}

impl Vgic {
    /// A guest's read of `size` bytes at `offset` of the redistributors' region (GICv3).
    pub fn gicr_read(&self, offset: u64, size: usize) -> u64 {
        let Some((vcpu, offset)) = self.redistributor(offset, size) else {
            return 0;
        };
        match (offset, size) {
            (FRAME.., _) => self.bank_read(vcpu, offset - FRAME, size, 0..1),
            (GICR_IIDR, 4) => IIDR_VALUE,
            (GICR_TYPER..0x10, _) => {
                let last = if vcpu + 1 == self.vcpus.len() { GICR_TYPER_LAST } else { 0 };
                part(u64::from(affinity(vcpu)) << 32 | (vcpu as u64) << 8 | last, offset, size)
            }
            (GICR_WAKER, 4) if self.vcpus[vcpu].asleep => WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP,
            (PIDR2, 4) => PIDR2_VALUE,
            _ => 0,
        }
    }

    /// A guest's write of `size` bytes at `offset` of the redistributors' region (GICv3).
    pub fn gicr_write(&mut self, offset: u64, size: usize, value: u64) -> Effects {
        match self.redistributor(offset, size) {
            Some((vcpu, offset @ FRAME..)) => self.bank_write(vcpu, offset - FRAME, size, value as u32, 0..1),
            Some((vcpu, GICR_WAKER)) if size == 4 => {
                self.vcpus[vcpu].asleep = value & WAKER_PROCESSOR_SLEEP != 0;
                self.rehome_after(vcpu)
            }
            _ => Effects::NONE,
        }
    }

    /// The vCPU and the offset in its two frames.
    fn redistributor(&self, offset: u64, size: usize) -> Option<(usize, usize)> {
        let vcpu = usize::try_from(offset / GICR_STRIDE).ok()?;
        let there =
            self.version == Version::V3 && vcpu < self.vcpus.len() && offset.is_multiple_of(size as u64);
        there.then_some((vcpu, (offset % GICR_STRIDE) as usize))
    }

    pub(crate) fn v3_gicd_read(&self, vcpu: usize, offset: usize, size: usize) -> u64 {
        match (offset, size) {
            (CTLR, 4) => self.read_groups() | CTLR_ARE_DS,
            // INTIDs of 10 bits; SPIs may be sent to any PE.
            (TYPER, 4) => 9 << 19 | (self.words() as u64 - 1),
            (IIDR, 4) => IIDR_VALUE,
            (PIDR2, 4) => PIDR2_VALUE,
            (IROUTER..0x8000, _) => {
                let route = self.route_index(offset).map_or(0, |n| self.routes[n]);
                part(route.into(), offset, size)
            }
            _ => self.bank_read(vcpu, offset, size, 1..32),
        }
    }

    pub(crate) fn v3_gicd_write(&mut self, vcpu: usize, offset: usize, size: usize, value: u64) -> Effects {
        match (offset, size) {
            (CTLR, 4) => self.write_groups(value),
            // The upper half of a route is Aff3, which is zero.
            (IROUTER..0x8000, 4 | 8) if offset.is_multiple_of(8) => match self.route_index(offset) {
                Some(n) => self.write_route(n, value as u32 & IROUTER_MASK),
                None => Effects::NONE,
            },
            _ => self.bank_write(vcpu, offset, size, value as u32, 1..32),
        }
    }

    fn route_index(&self, offset: usize) -> Option<usize> {
        let n = ((offset - IROUTER) / 8).checked_sub(32)?;
        (n < self.routes.len() && n + 32 < crate::INTID_LIMIT).then_some(n)
    }

    /// Sends SPI 32 + `n` to the vCPU with the route's affinity (there may be none), or to any.
    fn write_route(&mut self, n: usize, route: u32) -> Effects {
        self.routes[n] = route;
        let (w, bit) = (1 + n / 32, 1 << (n % 32));
        for (vcpu, state) in self.vcpus.iter_mut().enumerate() {
            if route & IROUTER_ANY != 0 || route == affinity(vcpu) {
                state.targets[w] |= bit;
            } else {
                state.targets[w] &= !bit;
            }
        }
        let moved = self.rehome(w);
        self.touch(0, w, bit | moved)
    }
}
