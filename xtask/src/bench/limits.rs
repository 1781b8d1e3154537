//! What figures must not exceed: what was promised, or what was measured before.

use std::collections::HashMap;

use anyhow::Result;

use super::measured::Measured;
use super::rows::Row;

/// By how much a figure may exceed an earlier one that did not keep the promise, in hundredths: the worst case of a mix of events moves
/// a little with every change of the code.
const SLACK: u64 = 2;

/// Limits of the rows, by name.
#[derive(Debug)]
pub struct Limits(HashMap<String, u64>);

impl Limits {
    /// No figure of docs/bench.json may become worse, and no promise that is kept there may be broken. Its figures depend on how many
    /// events there were: those that are compared with them have to be of as many.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn recorded() -> Result<Self> {
        let json = super::recorded(super::FIGURES)?;
        let benches = json["benches"].as_array().into_iter().flatten();
        Ok(Self(
            benches.filter_map(|at| Some((at["name"].as_str()?.to_owned(), at["max"].as_u64()?))).collect(),
        ))
    }

    /// The same of figures that were measured just now.
    pub fn of<'a>(measured: impl IntoIterator<Item = &'a Measured>) -> Self {
        Self(measured.into_iter().map(|at| (at.row.name.to_owned(), at.total.max())).collect())
    }

    /// What the row's figure must not exceed; `None` if it was not measured before.
    pub fn limit(&self, row: &Row) -> Option<u64> {
        let before = *self.0.get(row.name)?;
        Some(if before <= row.promise { row.promise } else { before + before * SLACK / 100 })
    }

    /// Whether a figure is worse than its limit.
    pub fn exceeded(&self, measured: &Measured) -> bool {
        self.limit(measured.row).is_some_and(|limit| measured.total.max() > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    fn measured(max: u64) -> Measured {
        Measured { row: &ROWS[0], scenarios: Vec::new(), total: [max].into_iter().collect() }
    }

    #[test]
    fn what_is_kept_stays_kept_and_what_is_not_becomes_no_worse() {
        let promise = ROWS[0].promise;
        let kept = Limits::of(&[measured(promise - 5)]);
        assert!(!kept.exceeded(&measured(promise)));
        assert!(kept.exceeded(&measured(promise + 1)));
        let broken = Limits::of(&[measured(2 * promise)]);
        assert!(!broken.exceeded(&measured(2 * promise + promise / 25)));
        assert!(broken.exceeded(&measured(2 * promise + promise / 25 + 1)));
    }

    #[test]
    fn a_row_that_was_never_measured_has_no_limit() {
        let limits = Limits::of(&[]);
        assert_eq!(limits.limit(&ROWS[0]), None);
        assert!(!limits.exceeded(&measured(u64::MAX)));
    }

    #[test]
    fn the_recorded_figures_can_be_read() {
        let limits = Limits::recorded().unwrap();
        assert!(limits.limit(&ROWS[0]).is_some());
    }
}
