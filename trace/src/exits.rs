//! Why a guest was left, in words.

use std::borrow::Cow;

/// What stands for ESR_EL2 after an interrupt, and the INTID of the virtual timer's.
pub(crate) const VIRTUAL_TIMER: (u32, u32) = (INTERRUPT, 27);
const INTERRUPT: u32 = 1;

/// The reason, for people and to be counted by.
pub(crate) fn reason(syndrome: u32, detail: u32) -> Cow<'static, str> {
    match (syndrome, syndrome >> 26) {
        (INTERRUPT, _) => match detail {
            0..16 => "another CPU".into(),
            25 => "list registers".into(),
            26 => "scheduler's timer".into(),
            27 => "virtual timer".into(),
            1020.. => "interrupt that has gone".into(),
            intid => format!("interrupt {intid}").into(),
        },
        (_, 0x01) if syndrome & 1 != 0 => "WFE".into(),
        (_, 0x01) => "WFI".into(),
        (_, 0x16) => "HVC".into(),
        (_, 0x17) => "SMC".into(),
        (_, 0x18) => "system register".into(),
        (_, 0x20) => "instruction abort".into(),
        (_, 0x24) => "data abort".into(),
        (_, 0x2f) => "SError".into(),
        (_, class) => format!("trap {class:#x}").into(),
    }
}

/// What is known besides: its name and its value.
pub(crate) fn detail(syndrome: u32, detail: u32) -> Option<(&'static str, u64)> {
    match (syndrome, syndrome >> 26) {
        (INTERRUPT, _) => Some(("INTID", detail.into())),
        (_, 0x16 | 0x17) => Some(("function", detail.into())),
        (_, 0x18) => Some(("ISS", (syndrome & 0x1ff_ffff).into())),
        (_, 0x20 | 0x24) => Some(("IPA", u64::from(detail) << 12)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_apart() {
        let esr = |class: u32, iss: u32| class << 26 | 1 << 25 | iss;
        for (syndrome, value, name, more) in [
            (1, 27, "virtual timer", Some(("INTID", 27))),
            (1, 33, "interrupt 33", Some(("INTID", 33))),
            (esr(0x2f, 0), 0, "SError", None),
            (esr(1, 0), 0, "WFI", None),
            (esr(1, 1), 0, "WFE", None),
            (esr(0x16, 0), 0x8400_0000, "HVC", Some(("function", 0x8400_0000))),
            (esr(0x24, 0x40), 0x9000, "data abort", Some(("IPA", 0x900_0000))),
            (esr(0x3c, 0), 0, "trap 0x3c", None),
        ] {
            assert_eq!((&*reason(syndrome, value), detail(syndrome, value)), (name, more));
        }
    }
}
