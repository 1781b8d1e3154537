//! List registers: what the virtual CPU interface of the hardware is told about one interrupt, and its two encodings.

/// The state of an interrupt in a list register (both false: the register is empty).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Pending: the guest has not acknowledged it (again).
    pub pending: bool,
    /// Active: the guest has acknowledged and not yet deactivated it.
    pub active: bool,
}

impl State {
    /// Neither pending nor active.
    pub const INACTIVE: State = State::from_field(0);
    /// Pending only.
    pub const PENDING: State = State::from_field(1);

    /// The two-bit State field, which both encodings share: bit 0 pending, bit 1 active.
    const fn to_field(self) -> u64 {
        self.pending as u64 | (self.active as u64) << 1
    }

    const fn from_field(field: u64) -> State {
        State { pending: field & 1 != 0, active: field & 2 != 0 }
    }
}

/// The content of one list register, independent of the hardware's version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lr {
    /// The INTID that the guest sees.
    pub vintid: u16,
    /// Pending and active bits.
    pub state: State,
    /// As in GICD_IPRIORITYR, so the lower the more urgent; the five upper bits count.
    pub priority: u8,
    /// Group 1 (else Group 0).
    pub group1: bool,
    /// The physical interrupt that the guest's deactivation deactivates too. Excludes `eoi`.
    pub hw: Option<u16>,
    /// Raise a maintenance interrupt when the guest's deactivation empties the register.
    pub eoi: bool,
    /// GICv2 SGIs: the vCPU that sent it.
    pub source: u8,
}

impl Lr {
    /// An empty register.
    pub const EMPTY: Lr =
        Lr { vintid: 0, state: State::INACTIVE, priority: 0, group1: false, hw: None, eoi: false, source: 0 };

    /// The value of GICH_LR\<n\> (GICv2: Arm IHI 0048B, section 5.3).
    #[inline]
    pub const fn to_gicv2(self) -> u32 {
        let id = match self.hw {
            Some(pintid) => 1 << 31 | (pintid as u32 & 0x3ff) << 10,
            None => (self.eoi as u32) << 19 | (self.source as u32 & 7) << 10,
        };
        let state = self.state.to_field() as u32;
        id | (self.group1 as u32) << 30
            | state << 28
            | (self.priority as u32 >> 3) << 23
            | self.vintid as u32 & 0x3ff
    }

    /// Reads a GICH_LR\<n\> value. The inverse of [`Lr::to_gicv2`] for what that can express.
    #[inline]
    pub const fn from_gicv2(value: u32) -> Lr {
        let hw = value >> 31 != 0;
        Lr {
            vintid: (value & 0x3ff) as u16,
            state: State::from_field((value >> 28) as u64),
            priority: ((value >> 23 & 0x1f) << 3) as u8,
            group1: value >> 30 & 1 != 0,
            hw: if hw { Some((value >> 10 & 0x3ff) as u16) } else { None },
            eoi: !hw && value >> 19 & 1 != 0,
            source: if hw { 0 } else { (value >> 10 & 7) as u8 },
        }
    }

    /// The value of ICH_LR\<n\>_EL2 (GICv3: Arm IHI 0069H, section 12.4). It has no place for `source`.
    #[inline]
    pub const fn to_gicv3(self) -> u64 {
        let id = match self.hw {
            Some(pintid) => 1 << 61 | (pintid as u64 & 0x1fff) << 32,
            None => (self.eoi as u64) << 41,
        };
        id | self.state.to_field() << 62
            | (self.group1 as u64) << 60
            | (self.priority as u64 & 0xf8) << 48
            | self.vintid as u64
    }

    /// Reads an ICH_LR\<n\>_EL2 value. The inverse of [`Lr::to_gicv3`] for what that can express.
    #[inline]
    pub const fn from_gicv3(value: u64) -> Lr {
        let hw = value >> 61 & 1 != 0;
        Lr {
            vintid: value as u16,
            state: State::from_field(value >> 62),
            priority: (value >> 48 & 0xf8) as u8,
            group1: value >> 60 & 1 != 0,
            hw: if hw { Some((value >> 32 & 0x1fff) as u16) } else { None },
            eoi: !hw && value >> 41 & 1 != 0,
            source: 0,
        }
    }
}

/// What the hypervisor must be told about besides the list registers: fields of GICH_HCR or ICH_HCR_EL2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Pending interrupts wait for a list register: maintenance when no register is pending any more (NPIE).
    pub pending_spilled: bool,
    /// Active interrupts found no list register: maintenance on the EOI of one (LRENPIE), and writes to the
    /// virtual DIR register trap (GICv3: TDIR; GICv2: the second page of GICV is unmapped) to [`crate::Vgic::dir`].
    pub active_spilled: bool,
}

/// The list registers of the physical CPU (GICH_* or ICH_*_EL2). Registers that the vGIC has not written are empty.
pub trait ListRegisters {
    /// The state in list register `n`.
    fn state(&self, n: usize) -> State;
    /// Writes list register `n`: [`Lr::to_gicv2`] or [`Lr::to_gicv3`] of what is to be in it.
    fn write(&mut self, n: usize, value: u64);
    /// ELRSR: bit n is set if register n is inactive and not waiting for its EOI maintenance.
    fn empty(&self) -> u16;
    /// HCR.EOIcount: deactivations by EOI that found no list register since the last [`ListRegisters::set_control`].
    fn eoi_count(&self) -> u8;
    /// VMCR.VEOIM (GICv2: VEM), the guest's EOImode: an EOI deactivates nothing, though some hardware counts it.
    fn splits_eoi(&self) -> bool;
    /// Writes the fields of HCR that [`Control`] names, and zero to EOIcount.
    fn set_control(&mut self, control: Control);
}
