//! A virtual CPU interface with its list registers as the GIC specifications describe them. Registers are kept in the
//! encoding of the version and taken apart here, independently of the crate.

use mobivmm_vgic::{Control, ListRegisters, Lr, State, Version};

const PENDING: u8 = 1;
const ACTIVE: u8 = 2;

/// One physical CPU's virtual interface.
pub struct Hw {
    version: Version,
    lrs: Vec<u64>,
    pub control: Control,
    eoi_count: u8,
    /// GICV_CTLR.EOImode.
    pub split_eoi: bool,
    /// Priorities of the interrupts that run, the innermost last.
    pub running: Vec<u8>,
    /// Physical interrupts that the guest's deactivations have deactivated since this was last taken.
    pub deactivated: Vec<u16>,
}

/// What the guest reads from IAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub intid: u16,
    pub source: u8,
    pub priority: u8,
}

impl Hw {
    pub fn new(version: Version, list_registers: usize) -> Hw {
        Hw {
            version,
            lrs: vec![0; list_registers],
            control: Control::default(),
            eoi_count: 0,
            split_eoi: false,
            running: vec![],
            deactivated: vec![],
        }
    }

    fn field(&self, n: usize, v2: (u32, u32), v3: (u32, u32)) -> u16 {
        let (low, width) = if self.version == Version::V2 { v2 } else { v3 };
        (self.lrs[n] >> low & ((1 << width) - 1)) as u16
    }
    fn vintid(&self, n: usize) -> u16 {
        self.field(n, (0, 10), (0, 16))
    }
    fn state(&self, n: usize) -> u8 {
        self.field(n, (28, 2), (62, 2)) as u8
    }
    fn set_state(&mut self, n: usize, state: u8) {
        let low = if self.version == Version::V2 { 28 } else { 62 };
        self.lrs[n] = self.lrs[n] & !(3 << low) | u64::from(state) << low;
    }
    fn is_hw(&self, n: usize) -> bool {
        self.field(n, (31, 1), (61, 1)) != 0
    }
    fn wants_eoi(&self, n: usize) -> bool {
        !self.is_hw(n) && self.field(n, (19, 1), (41, 1)) != 0
    }
    fn priority(&self, n: usize) -> u8 {
        if self.version == Version::V2 {
            (self.field(n, (23, 5), (0, 0)) << 3) as u8
        } else {
            self.field(n, (0, 0), (48, 8)) as u8
        }
    }

    /// What is pending: its list register, INTID and priority.
    pub fn pending(&self) -> impl Iterator<Item = (usize, u16, u8)> {
        let pending = (0..self.lrs.len()).filter(|&n| self.state(n) == PENDING);
        pending.map(|n| (n, self.vintid(n), self.priority(n)))
    }

    /// Acknowledges the most urgent pending interrupt that preempts what runs.
    pub fn ack(&mut self) -> Option<Ack> {
        let (best, _, priority) = self.pending().min_by_key(|&(_, _, priority)| priority)?;
        if self.running.last().is_some_and(|&running| running <= priority) {
            return None;
        }
        self.set_state(best, ACTIVE);
        self.running.push(priority);
        let source = if self.is_hw(best) { 0 } else { self.field(best, (10, 3), (0, 0)) as u8 };
        Some(Ack { intid: self.vintid(best), source, priority })
    }

    /// A write of EOIR: priority drop, and deactivation unless EOImode = 1.
    pub fn eoi(&mut self, intid: u16) {
        self.running.pop().expect("the guest ends what it began");
        if !self.split_eoi {
            self.deactivate(intid);
        } else if !(0..self.lrs.len()).any(|n| self.vintid(n) == intid && self.state(n) & ACTIVE != 0) {
            // As QEMU does (hw/intc/arm_gicv3_cpuif.c); by Arm IHI 0069H, ICH_HCR_EL2.EOIcount, only what would have deactivated counts.
            self.eoi_count = (self.eoi_count + 1).min(31);
        }
    }

    /// A write of DIR. False: it traps.
    pub fn dir(&mut self, intid: u16) -> bool {
        if !self.control.active_spilled {
            self.deactivate(intid);
        }
        !self.control.active_spilled
    }

    fn deactivate(&mut self, intid: u16) {
        let found = (0..self.lrs.len()).find(|&n| self.vintid(n) == intid && self.state(n) & ACTIVE != 0);
        let Some(n) = found else {
            self.eoi_count = (self.eoi_count + 1).min(31);
            return;
        };
        self.set_state(n, self.state(n) & !ACTIVE);
        if self.is_hw(n) {
            self.deactivated.push(self.field(n, (10, 10), (32, 13)));
        }
    }

    /// Whether the maintenance interrupt is asserted.
    pub fn maintenance(&self) -> bool {
        let eoi = (0..self.lrs.len()).any(|n| self.state(n) == 0 && self.wants_eoi(n));
        let no_pending = (0..self.lrs.len()).all(|n| self.state(n) & PENDING == 0);
        eoi || self.control.pending_spilled && no_pending
            || self.control.active_spilled && self.eoi_count != 0
    }

    /// Whether all list registers are empty.
    pub fn is_clear(&self) -> bool {
        (0..self.lrs.len()).all(|n| self.state(n) == 0 && !self.wants_eoi(n))
    }

    /// What must hold whenever the guest runs: no INTID is in two list registers.
    pub fn check(&self) {
        let mut listed = self.listed();
        listed.sort();
        assert!(listed.is_sorted_by(|a, b| a < b), "twice in list registers: {listed:?}");
    }

    /// INTIDs in list registers, and those that were there and ended.
    pub fn held(&self) -> Vec<u16> {
        (0..self.lrs.len()).map(|n| self.vintid(n)).collect()
    }

    /// INTIDs in list registers.
    pub fn listed(&self) -> Vec<u16> {
        self.held()
            .into_iter()
            .enumerate()
            .filter(|&(n, _)| self.state(n) != 0)
            .map(|(_, intid)| intid)
            .collect()
    }
}

impl ListRegisters for Hw {
    fn state(&self, n: usize) -> State {
        match self.version {
            Version::V2 => Lr::from_gicv2(self.lrs[n] as u32).state,
            Version::V3 => Lr::from_gicv3(self.lrs[n]).state,
        }
    }

    fn write(&mut self, n: usize, value: u64) {
        self.lrs[n] = value;
        if value == 0 {
            return;
        }
        assert_ne!(self.state(n), 0, "wrote an inactive interrupt: {value:#x}");
        assert!(
            !self.is_hw(n) || self.state(n) != PENDING | ACTIVE,
            "HW = 1 with pending and active: {value:#x}"
        );
    }

    fn empty(&self) -> u16 {
        (0..self.lrs.len())
            .filter(|&n| self.state(n) == 0 && !self.wants_eoi(n))
            .fold(0, |mask, n| mask | 1 << n)
    }

    fn eoi_count(&self) -> u8 {
        self.eoi_count
    }

    fn splits_eoi(&self) -> bool {
        self.split_eoi
    }

    fn set_control(&mut self, control: Control) {
        self.control = control;
        self.eoi_count = 0;
    }
}
