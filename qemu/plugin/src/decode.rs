//! The A64 instructions that the plugin has to know (Arm ARM, chapter C4 "A64 Instruction Set Encoding").

/// An instruction that gets more than a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// ERET, ERETAA or ERETAB.
    Return,
    /// WFI or WFE.
    Wait,
    /// MSR DAIFSet or DAIFClr with the IRQ bit.
    Mask(bool),
    /// MRS ISR_EL1: a look at what is pending.
    Look,
    /// MSR DAIF from this general register.
    SetDaif(u8),
    /// MRS CNTPCT_EL0 to this general register.
    Counter(u8),
    /// `movz xzr, #id`, which does nothing.
    Mark(u16),
}

/// What is special about the instruction.
pub fn special(word: u32) -> Option<Special> {
    let register = (word & 0x1f) as u8;
    match word {
        0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff => Some(Special::Return),
        0xd503_207f | 0xd503_205f => Some(Special::Wait),
        _ if word & 0xffff_f0ff == 0xd503_40df && word & 0x200 != 0 => Some(Special::Mask(true)),
        _ if word & 0xffff_f0ff == 0xd503_40ff && word & 0x200 != 0 => Some(Special::Mask(false)),
        _ if word & !0x1f == 0xd538_c100 => Some(Special::Look),
        _ if word & !0x1f == 0xd51b_4220 => Some(Special::SetDaif(register)),
        _ if word & !0x1f == 0xd53b_e020 => Some(Special::Counter(register)),
        _ if word & 0xffe0_001f == 0xd280_001f => Some(Special::Mark((word >> 5) as u16)),
        _ => None,
    }
}

/// Whether the instruction surely goes on to the next one: integer arithmetic does. Others may fault or branch.
pub fn goes_on(word: u32) -> bool {
    // op0, bits 28 to 25: data processing, immediate or register.
    matches!(word >> 25 & 0xf, 0b1000 | 0b1001 | 0b0101 | 0b1101)
}
