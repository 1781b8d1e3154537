//! Sizes and durations: a whole number and a unit.

const SIZES: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const DURATIONS: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

/// Reads a size in bytes, such as `512MiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    quantity(text, &SIZES).ok_or_else(|| {
        format!(
            "`{text}` is not a size: write a whole number and a unit, KiB, MiB or GiB, such as \"512MiB\""
        )
    })
}

/// Reads a duration in nanoseconds, such as `250us`.
///
/// # Errors
/// What to write instead.
pub fn duration(text: &str) -> Result<u64, String> {
    quantity(text, &DURATIONS).ok_or_else(|| {
        format!(
            "`{text}` is not a duration: write a whole number and a unit, ns, us, ms or s, such as \"250us\""
        )
    })
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a size for people: exact, in the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES).unwrap_or_else(|| format!("{bytes} bytes"))
}

/// Writes a duration for people: exact, in the largest unit that divides it.
pub(crate) fn show_duration(ns: u64) -> String {
    show(ns, &DURATIONS).unwrap_or_else(|| format!("{ns}ns"))
}

fn show(value: u64, units: &[(&str, u64)]) -> Option<String> {
    let (name, factor) = units.iter().rev().find(|(_, factor)| value.is_multiple_of(*factor))?;
    Some(format!("{}{name}", value / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_need_a_whole_number_and_a_known_unit() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        assert_eq!(duration("250us"), Ok(250_000));
        for bad in ["512", "512MB", "MiB", "", "1.5GiB", "-1MiB", "99999999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["1", "1m", "1.5ms", "us"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown_in_the_largest_unit_that_is_exact() {
        assert_eq!(show_size(512 << 20), "512MiB");
        assert_eq!(show_size(1000), "1000 bytes");
        assert_eq!(show_duration(1_500_000), "1500us");
    }
}
