//! The table of the comparison, of its JSON.

use serde_json::Value;

/// The first line.
pub const HEAD: &str =
    "                           cpu               n        p50        p99        max    p50 x    max x";

/// The whole table.
pub fn text(figures: &Value) -> String {
    let benches = figures["benches"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines = vec![HEAD.to_owned()];
    for (index, bench) in benches.iter().enumerate() {
        if index == 0 || benches[index - 1]["name"] != bench["name"] {
            lines.push(title(word(bench, "name"), word(bench, "path")));
        }
        lines.push(line(benches, index));
    }
    lines.join("\n") + "\n"
}

/// What stands above a row's contenders.
pub fn title(name: &str, path: &str) -> String {
    format!("{name}: {path}")
}

/// A contender's line: its figures, and divided by those of the MobiVMM before it.
pub fn line(benches: &[Value], index: usize) -> String {
    let bench = &benches[index];
    let (name, cpu) = (word(bench, "contender"), word(bench, "cpu"));
    let [n, p50, p99, max] = ["n", "p50", "p99", "max"].map(|key| bench[key].as_u64().unwrap_or(0));
    if n == 0 {
        return format!("  {name:<24} {cpu:<12} this Xen has no such scheduler");
    }
    let before = benches[..=index].iter().rev().take_while(|at| at["name"] == bench["name"]);
    let base = before.clone().find(|at| at["mobivmm"] == true);
    let times = |key: &str, value: u64| match base.and_then(|base| base[key].as_u64()) {
        Some(base) if base > 0 => format!("{:.1}", value as f64 / base as f64),
        _ => String::new(),
    };
    let [times50, times_max] = [times("p50", p50), times("max", max)];
    let note = if bench["repeats"] == false { "  no two runs were equal" } else { "" };
    format!("  {name:<24} {cpu:<12} {n:>6} {p50:>10} {p99:>10} {max:>10} {times50:>8} {times_max:>8}{note}")
}

fn word<'a>(bench: &'a Value, key: &str) -> &'a str {
    bench[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_divided_by_those_of_the_mobivmm_before_them() {
        let bench = |name: &str, contender: &str, max: u64, repeats: bool| {
            json!({
                "name": name, "contender": contender, "cpu": "max", "mobivmm": contender == "MobiVMM", "path": "a path",
                "n": u64::from(max > 0), "p50": max, "p99": max, "max": max, "repeats": repeats,
            })
        };
        let benches = [
            bench("tick", "MobiVMM", 100, true),
            bench("tick", "Xen", 250, true),
            bench("tick", "KVM", 400, false),
            bench("wake", "Xen rtds", 0, true),
            bench("wake", "Xen", 100, true),
        ];
        let text = text(&json!({ "benches": benches }));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["tick:", "a", "path"]);
        assert_eq!(lines[3], ["Xen", "max", "1", "250", "250", "250", "2.5", "2.5"]);
        assert_eq!(lines[4][6..], ["4.0", "4.0", "no", "two", "runs", "were", "equal"]);
        assert!(text.contains("Xen rtds                 max          this Xen has no such scheduler"));
        // What is in another row is nobody's measure.
        assert_eq!(lines[7], ["Xen", "max", "1", "100", "100", "100"]);
    }
}
