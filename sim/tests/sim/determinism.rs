//! Equal input gives equal output.

use crate::common::*;
use mobivmm_sim::{Outcome, simulate};
use svg::parser::Event;

/// Everything that comes out, as text.
fn everything(seed: u64) -> (String, Outcome) {
    let text =
        file("overcommit.toml").replacen("\"busy\"", "\"bursty\"", 1).replacen("\"busy\"", "\"sporadic\"", 1);
    let options = mobivmm_sim::Options { charted: 20 * MS, ..options(4, seed, 200 * MS) };
    let outcome = simulate(&parse(&text), &options).unwrap();
    let json = serde_json::to_string(&outcome.report).unwrap();
    (format!("{}{json}{:?}{}", outcome.report, outcome.jobs, outcome.chart()), outcome)
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
    let (once, _) = everything(7);
    assert!(once == everything(7).0);
    assert!(once != everything(8).0);
}

#[test]
fn the_chart_shows_every_span_twice() {
    let (_, outcome) = everything(1);
    let chart = outcome.chart();
    let bars = svg::read(&chart).unwrap().filter(|event| match event {
        Event::Tag("rect", _, attributes) => attributes.contains_key("x"),
        Event::Error(error) => panic!("{error}"),
        _ => false,
    });
    assert_eq!(bars.count(), 2 * outcome.spans.len());
    assert!(outcome.spans.len() > 50);
    for pair in outcome.spans.iter().flat_map(|a| outcome.spans.iter().map(move |b| (a, b))) {
        let (a, b) = pair;
        let apart = a == b || a.end <= b.start || b.end <= a.start;
        assert!(apart || (a.cpu != b.cpu && a.vcpu != b.vcpu), "{a:?} and {b:?} at once");
    }
}
