//! What the QEMU plugin records, as it is written and read: a stream of [`Event`]s of fixed size, little-endian.
//!
//! # Counting
//! An event carries counts of the instructions *before* the one that it is about: of all CPUs at all exception levels, which under
//! `-icount shift=0` is virtual time without the idle time; of all CPUs at EL2 or above; and of its own CPU there. An instruction
//! counts when it begins to execute, so one that faults does too.
#![forbid(unsafe_code)]

/// Bytes of an event.
pub const SIZE: usize = 56;

/// Marks with this number or a higher one end a measurement: all that was recorded before is in the file when the guest goes on.
pub const FLUSH: u16 = 0xff00;

/// The mark of a task's job that begins; x0 = when it was to be released, in ticks of the guest's counter.
pub const JOB_BEGIN: u16 = 0x100;
/// The mark of the job's end; x0 = its deadline, likewise.
pub const JOB_END: u16 = 0x101;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An exception to EL2 was taken; this is its vector's first instruction.
    Entry {
        /// The vector's offset from VBAR_EL2: the origin and the type of the exception.
        vector: u16,
        /// ESR_EL2, which an interrupt leaves as it was.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// HPFAR_EL2.
        hpfar: u64,
    },
    /// EL2 executes ERET.
    Return {
        /// The VMID in VTTBR_EL2.
        vmid: u16,
        /// SPSR_EL2: where to, and what is masked there.
        spsr: u64,
        /// ELR_EL2.
        elr: u64,
        /// VBAR_EL2, by which addresses in a program that runs anywhere are told.
        vbar: u64,
    },
    /// EL2 masks or unmasks interrupts by an MSR of DAIF.
    Mask {
        /// Whether IRQs are masked from here on.
        masked: bool,
    },
    /// EL2 executes WFI or WFE.
    Wait,
    /// EL2 reads ISR_EL1: it looks at what interrupts are pending.
    Look,
    /// EL2 has read the physical counter in the instruction before. Recorded only if it went on otherwise than `total` did since the
    /// last time: the machine was idle.
    Clock {
        /// CNTPCT_EL0.
        ticks: u64,
    },
    /// A guest executes the marker instruction `movz xzr, #id`.
    Mark {
        /// The marker's number.
        id: u16,
        /// What the guest's vCPU was doing.
        guest: Guest,
    },
    /// A guest executes an instruction at a watched address.
    Watch {
        /// Which one, in the order of the plugin's arguments.
        index: u16,
        /// What the guest's vCPU was doing.
        guest: Guest,
    },
    /// EL2 executes a run of instructions.
    Steps {
        /// The address of the first.
        pc: u64,
        /// How many there are.
        count: u32,
    },
}

impl Kind {
    /// The VMID of the guest that EL2 enters by it: a return to EL1 or EL0 (SPSR_EL2.M).
    pub const fn entered(&self) -> Option<u16> {
        match *self {
            Self::Return { vmid, spsr, .. } if spsr & 0xf < 8 => Some(vmid),
            _ => None,
        }
    }
}

/// The state of a vCPU at a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The VMID in VTTBR_EL2.
    pub vmid: u16,
    /// Its x0.
    pub x0: u64,
    /// CNTV_CVAL_EL0: when its virtual timer is due, by its own counter.
    pub cval: u64,
    /// CNTVOFF_EL2: what its virtual counter is behind the physical one.
    pub offset: u64,
}

/// Something that happened on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The CPU's index.
    pub cpu: u8,
    /// Instructions of all CPUs before this one.
    pub total: u64,
    /// Instructions of all CPUs at EL2 or above before this one.
    pub el2: u64,
    /// Instructions of this CPU at EL2 or above before this one.
    pub own: u64,
    /// What it is.
    pub kind: Kind,
}

impl Event {
    /// The event in bytes.
    pub fn encode(&self) -> [u8; SIZE] {
        let guest = |id: u16, guest: Guest| {
            (u32::from(id) | u32::from(guest.vmid) << 16, [guest.x0, guest.cval, guest.offset])
        };
        let (kind, (detail, values)) = match self.kind {
            Kind::Entry { vector, esr, far, hpfar } => (0u8, (vector.into(), [esr, far, hpfar])),
            Kind::Return { vmid, spsr, elr, vbar } => (1, (vmid.into(), [spsr, elr, vbar])),
            Kind::Mask { masked } => (2, (masked.into(), [0; 3])),
            Kind::Wait => (3, (0, [0; 3])),
            Kind::Clock { ticks } => (4, (0, [ticks, 0, 0])),
            Kind::Mark { id, guest: state } => (5, guest(id, state)),
            Kind::Watch { index, guest: state } => (6, guest(index, state)),
            Kind::Steps { pc, count } => (7, (count, [pc, 0, 0])),
            Kind::Look => (8, (0, [0; 3])),
        };
        let mut bytes = [0; SIZE];
        bytes[0] = kind;
        bytes[1] = self.cpu;
        bytes[4..8].copy_from_slice(&detail.to_le_bytes());
        let words = [self.total, self.el2, self.own].into_iter().chain(values);
        for (place, value) in bytes[8..].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The event that these bytes are; `None` if there is no such kind.
    pub fn decode(bytes: &[u8; SIZE]) -> Option<Self> {
        let detail = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let mut words = bytes[8..].as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        let [total, el2, own] = [word(), word(), word()];
        let (low, high) = (detail as u16, (detail >> 16) as u16);
        let [a, b, c] = [word(), word(), word()];
        let guest = Guest { vmid: high, x0: a, cval: b, offset: c };
        let kind = match bytes[0] {
            0 => Kind::Entry { vector: low, esr: a, far: b, hpfar: c },
            1 => Kind::Return { vmid: low, spsr: a, elr: b, vbar: c },
            2 => Kind::Mask { masked: low != 0 },
            3 => Kind::Wait,
            4 => Kind::Clock { ticks: a },
            5 => Kind::Mark { id: low, guest },
            6 => Kind::Watch { index: low, guest },
            7 => Kind::Steps { pc: a, count: detail },
            8 => Kind::Look,
            _ => return None,
        };
        Some(Self { cpu: bytes[1], total, el2, own, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written() {
        let guest = Guest { vmid: 0xfffe, x0: 1, cval: u64::MAX, offset: 3 };
        let kinds = [
            Kind::Entry { vector: 0x780, esr: 1 << 63, far: 2, hpfar: 3 },
            Kind::Return { vmid: 7, spsr: 5, elr: 6, vbar: 0x4020_0800 },
            Kind::Mask { masked: true },
            Kind::Mask { masked: false },
            Kind::Wait,
            Kind::Look,
            Kind::Clock { ticks: 1 << 60 },
            Kind::Mark { id: 0xffff, guest },
            Kind::Watch { index: 9, guest },
            Kind::Steps { pc: 0xffff_0000_0000_1000, count: 512 },
        ];
        for (cpu, kind) in kinds.into_iter().enumerate() {
            let event = Event { cpu: cpu as u8, total: u64::MAX - 1, el2: 12, own: 11, kind };
            assert_eq!(Event::decode(&event.encode()), Some(event));
        }
        assert_eq!(Event::decode(&[9; SIZE]), None);
    }
}
