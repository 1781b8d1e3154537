//! Arbitrary bytes as a sequence of accesses: nothing a guest does may panic or leave the list registers in a state
//! that the architecture calls unpredictable. Also the body of the fuzz target `faces` (tests/fuzz).

use crate::hw::Hw;
use mobivmm_vgic::{Config, Effects, Posted, Sgi, SgiRegister, Version, Vgic};

/// Reads numbers off a byte string; zeros after its end.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, count: usize) -> u64 {
        let (now, later) = self.0.split_at(count.min(self.0.len()));
        self.0 = later;
        now.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// An offset near the registers, or anywhere.
    fn offset(&mut self) -> u64 {
        match self.take(1) {
            0 => self.take(8),
            1..0x20 => self.take(3),
            0x20..0x60 => 0x6000 + self.take(1) * 8,
            _ => self.take(2) & 0xfff,
        }
    }

    /// The same in any vCPU's frames.
    fn gicr_offset(&mut self) -> u64 {
        self.offset().wrapping_add(0x1_0000 * self.take(1))
    }

    fn size(&mut self) -> usize {
        match self.take(1) {
            size @ 0..12 => size as usize,
            size @ 12..64 => 1 << (size % 4),
            _ => 4,
        }
    }
}

/// Plays the accesses that `data` describes.
pub fn play(data: &[u8]) {
    let mut bytes = Bytes(data);
    let version = if bytes.take(1) % 2 == 0 { Version::V2 } else { Version::V3 };
    let config = Config {
        version,
        vcpus: 1 + bytes.take(1) as usize % if version == Version::V2 { 8 } else { 64 },
        spis: bytes.take(2) as usize % 989,
        list_registers: 1 + bytes.take(1) as usize % 16,
    };
    let mut vgic = Vgic::new(config).expect("a good configuration");
    let posted: Vec<Posted> = (0..config.vcpus).map(|_| Posted::default()).collect();
    let mut cpus: Vec<Hw> = (0..config.vcpus).map(|_| Hw::new(version, config.list_registers)).collect();
    while !bytes.is_empty() {
        let (action, vcpu) = (bytes.take(1) % 16, bytes.take(1) as usize % config.vcpus);
        let effects = match action {
            0..=3 => vgic.gicd_write(vcpu, bytes.offset(), bytes.size(), bytes.take(8)),
            4 => vgic.gicr_write(bytes.gicr_offset(), bytes.size(), bytes.take(8)),
            5 => {
                let registers = [SgiRegister::Sgi1r, SgiRegister::Sgi0r, SgiRegister::Asgi1r];
                let (register, value) = (registers[bytes.take(1) as usize % 3], bytes.take(8));
                let sgi = match version {
                    Version::V2 => Sgi::from_sgir(value, vcpu, config.vcpus),
                    Version::V3 => Sgi::from_register(register, value, vcpu, config.vcpus),
                };
                sgi.targets.iter().for_each(|to| posted[to].post(sgi));
                if bytes.take(1) % 4 == 0 {
                    vgic.absorb(vcpu, &posted[vcpu]);
                }
                Effects { kick: sgi.targets, deactivate: false }
            }
            6 => vgic.line(vcpu, bytes.take(2) as u16 % 1200, bytes.take(1) % 2 == 0),
            7 => vgic.pulse(vcpu, bytes.take(2) as u16 % 1200),
            8 => {
                let intid = bytes.take(2) as u16 % 1200;
                if cpus[vcpu].dir(intid) { Effects::NONE } else { vgic.dir(vcpu, intid.into()) }
            }
            9 => {
                let _ = vgic.gicd_read(vcpu, bytes.offset(), bytes.size());
                let _ = vgic.gicr_read(bytes.gicr_offset(), bytes.size());
                Effects::NONE
            }
            10 => {
                let effects = vgic.exit(vcpu, &mut cpus[vcpu]);
                assert!(cpus[vcpu].is_clear() && cpus[vcpu].listed().is_empty());
                effects
            }
            11 => vgic.set_online(vcpu, bytes.take(1) % 2 == 0),
            12 => {
                cpus[vcpu].ack();
                Effects::NONE
            }
            13 => {
                // Whatever INTID the guest likes.
                if !cpus[vcpu].running.is_empty() {
                    cpus[vcpu].eoi(bytes.take(2) as u16);
                }
                Effects::NONE
            }
            14 => {
                vgic.map_hw(vcpu, bytes.take(2) as u16 % 1200, bytes.take(2) as u16 % 1020);
                Effects::NONE
            }
            _ => {
                cpus[vcpu].split_eoi ^= true;
                Effects::NONE
            }
        };
        if effects.deactivate {
            while vgic.take_deactivation(Some(vcpu)).is_some() {}
        }
        for cpu in effects.kick.iter().chain([vcpu]) {
            if cpus[cpu].maintenance() {
                let _ = vgic.maintenance(cpu, &mut cpus[cpu]);
            }
            if vgic.deliver(cpu, &posted[cpu], &mut cpus[cpu]).is_none() {
                let _ = vgic.enter(cpu, &mut cpus[cpu]);
            }
            for _ in 0..40 {
                let _ = vgic.enter(cpu, &mut cpus[cpu]);
            }
            assert!(!vgic.needs_enter(cpu), "list registers that are never up to date");
            cpus[cpu].check();
            assert!(!cpus[cpu].maintenance(), "maintenance that does not go away");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_panics(data in prop::collection::vec(any::<u8>(), 0..2000)) {
            super::play(&data);
        }
    }
}
