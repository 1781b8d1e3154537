//! The promises and what was measured, as pages that are made from the figures and from nothing else.

use serde_json::Value;

use super::rows::ROWS;

/// PROMISES.md, of the JSON that `cargo xtask bench --json` writes.
pub fn promises(figures: &Value) -> String {
    let mut text = "# What MobiVMM promises\n\n\
        Each promise is the worst case (p100) over all events of all scenarios, on one CPU unless said otherwise. \
        `cargo xtask bench --check` measures and fails if one is broken; two runs are equal to the event. This page is made by \
        `cargo xtask bench --report` from [docs/bench.json](docs/bench.json); [docs/performance.md](docs/performance.md) says how it is measured.\n\n\
        | name | what | unit | promise | measured | |\n|---|---|---|---:|---:|---|\n"
        .to_owned();
    for row in ROWS {
        let max = find(figures, row.name).and_then(|figure| figure["max"].as_u64());
        let (max, verdict) = match max {
            Some(max) if max <= row.promise => (max.to_string(), "kept"),
            Some(max) => (max.to_string(), "**not yet**"),
            None => (String::new(), "not measured"),
        };
        let (name, path, unit, promise) = (row.name, row.path, row.unit.name(), row.promise);
        text += &format!("| `{name}` | {path} | {unit} | ≤ {promise} | {max} | {verdict} |\n");
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

    #[test]
    fn a_page_without_marks_is_left_alone() {
        assert_eq!(replace("# Performance\n", "x"), None);
    }
}
