//! The promises and what was measured, as pages that are made from the figures and from nothing else.

use serde_json::Value;

use super::rows::{Proposal, ROWS, Row, State};

/// PROMISES.md, of the JSON that `cargo xtask bench --json` writes.
pub fn promises(figures: &Value, rows: &[Row]) -> String {
    let mut text = "# What MobiVMM promises\n\n\
        Each promise is the worst case (p100) over all events of all scenarios, on one CPU unless said otherwise. \
        `cargo xtask bench --check` measures and fails if one is broken; two runs are equal to the event. This page is made by \
        `cargo xtask bench --report` from [docs/bench.json](docs/bench.json); [docs/performance.md](docs/performance.md) says how it is measured.\n\n\
        | name | what | unit | promise | proposed | measured | |\n|---|---|---|---:|---:|---:|---|\n"
        .to_owned();
    let mut reasons = String::new();
    for row in rows {
        let max = find(figures, row.name).and_then(|figure| figure["max"].as_u64());
        let verdict = match max.map(|max| row.state(max)) {
            Some(State::Kept) => "kept",
            Some(State::Proposed) => "not kept; within the proposal",
            Some(State::Broken) => "**not yet**",
            None => "not measured",
        };
        let max = max.map(|max| max.to_string()).unwrap_or_default();
        let proposed = row.proposal.map(|proposal| format!("≤ {}", proposal.number)).unwrap_or_default();
        let (name, path, unit, promise) = (row.name, row.path, row.unit.name(), row.promise);
        text += &format!("| `{name}` | {path} | {unit} | ≤ {promise} | {proposed} | {max} | {verdict} |\n");
        if let Some(Proposal { number, reason, section }) = row.proposal {
            let anchor = anchor(section);
            reasons += &format!(
                "* `{name}`: {number} in place of {promise}: {reason} ([{section}](docs/performance.md#{anchor}))\n"
            );
        }
    }
    if !reasons.is_empty() {
        text += "\n## What is proposed\n\n\
            Where the design was changed as far as it goes and a promise is not met, another number is proposed, with the evidence. The \
            promise stays until it is agreed to; `--check` holds the figure to the proposal.\n\n";
        text += &reasons;
    }
    text += "\n## What this does not say\n\n\
        Instructions under QEMU's `-icount` are no cycles, seconds or joules: caches, TLBs, pipelines and memory are invisible \
        there. An instruction is a nanosecond of virtual time by definition. On hardware the same path costs what the hardware makes \
        of it. With several CPUs `-icount` lets them take turns on one clock, so worst-case latency is measured at one CPU.\n";
    text
}

/// The table of all figures for docs/performance.md.
pub fn figures(figures: &Value) -> String {
    let mut text =
        "| name | scenario | n | p50 | p99 | p99.9 | max |\n|---|---|---:|---:|---:|---:|---:|\n".to_owned();
    for row in ROWS {
        let scenarios = find(figures, row.name).and_then(|figure| figure["scenarios"].as_object());
        for (scenario, figure) in scenarios.into_iter().flatten() {
            text += &format!("| `{}` | {scenario} |", row.name);
            for key in ["n", "p50", "p99", "p99.9", "max"] {
                text += &format!(" {} |", figure[key]);
            }
            text += "\n";
        }
    }
    text
}

/// The fragment by which a page's heading is found.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|at| at.is_alphanumeric() || matches!(at, '-' | '_')).collect()
}

const BEGIN: &str = "<!-- made by `cargo xtask bench --report` -->\n";
const END: &str = "<!-- up to here -->";

/// Replaces the part of a page that is between the marks.
pub fn replace(page: &str, part: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{part}{END}{after}"))
}

fn find<'a>(figures: &'a Value, name: &str) -> Option<&'a Value> {
    figures["benches"].as_array()?.iter().find(|figure| figure["name"] == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_was_promised_is_kept() {
        let proposal = Proposal { number: 200, reason: "it is long", section: "The 1st, and worst" };
        let row = Row { name: "a", promise: 100, proposal: Some(proposal), ..ROWS[0] };
        let page = |max: u64| promises(&json!({ "benches": [{ "name": "a", "max": max }] }), &[row]);
        assert!(page(100).contains("| ≤ 100 | ≤ 200 | 100 | kept |"));
        assert!(page(101).contains("| ≤ 100 | ≤ 200 | 101 | not kept; within the proposal |"));
        assert!(page(201).contains("| ≤ 100 | ≤ 200 | 201 | **not yet** |"));
        let reason = "it is long ([The 1st, and worst](docs/performance.md#the-1st-and-worst))";
        assert!(page(100).contains(reason), "{}", page(100));
        let page = promises(&json!({ "benches": [] }), &[Row { proposal: None, ..row }]);
        assert!(page.contains("| ≤ 100 |  |  | not measured |") && !page.contains("What is proposed"));
    }

    #[test]
    fn a_proposal_is_more_than_the_promise_and_has_its_evidence() {
        let performance = include_str!("../../../docs/performance.md");
        for row in ROWS {
            let Some(Proposal { number, section, .. }) = row.proposal else { continue };
            assert!(number > row.promise, "{}", row.name);
            let is_heading =
                |line: &str| line.trim_start_matches('#').trim() == section && line.starts_with('#');
            assert!(performance.lines().any(is_heading), "{}: no section {section}", row.name);
        }
    }

    #[test]
    fn a_page_without_marks_is_left_alone() {
        assert_eq!(replace("# Performance\n", "x"), None);
    }
}
