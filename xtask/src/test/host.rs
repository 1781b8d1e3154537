//! `cargo test` of the workspace, counted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::Counts;
use crate::build::Builder;

/// Runs the host tests whose names contain `filter`. What cannot be built or started counts as one failure.
pub fn run(filter: &str) -> Counts {
    cargo_test(filter).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Counts { passed: 0, failed: 1 }
    })
}

fn cargo_test(filter: &str) -> Result<Counts> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args((!filter.is_empty()).then_some(filter))
        .current_dir(Builder::root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let (mut counts, mut unfinished) = (Counts::default(), 0);
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        let line = line.context("cannot read what cargo says")?;
        println!("{line}");
        unfinished += u32::from(begins(&line));
        if let Some(result) = summary(&line) {
            counts += result;
            unfinished = u32::saturating_sub(unfinished, 1);
        }
    }
    // A test program that died has not counted its failure.
    counts.failed += unfinished;
    if !child.wait().context("cannot wait for cargo")?.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// Whether this is a test program's first line, such as `running 3 tests`.
fn begins(line: &str) -> bool {
    let count = line.strip_prefix("running ").and_then(|rest| rest.split_once(" test"));
    count.is_some_and(|(count, rest)| count.parse::<u32>().is_ok() && matches!(rest, "" | "s"))
}

/// The numbers in a test program's last line.
fn summary(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |what| {
        let text = numbers.split("; ").find_map(|part| part.trim().strip_suffix(what))?;
        text.trim().parse().ok()
    };
    Some(Counts { passed: number(" passed")?, failed: number(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_known() {
        assert!(begins("running 1 test") && begins("running 12 tests"));
        assert!(!begins("running out of tests") && !begins("test running 1 test"));
    }

    #[test]
    fn a_summary_is_counted_and_nothing_else() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.04s";
        assert_eq!(summary(line), Some(Counts { passed: 12, failed: 3 }));
        assert_eq!(summary("test tests::a_summary ... ok"), None);
        assert_eq!(summary("test result: ok."), None);
    }
}
