//! Histograms as pictures, which are made from the figures and from nothing else: a lane for each figure, a bar for each value.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;

use super::rows::{ROWS, Unit};

/// Pixels.
const WIDTH: u32 = 1_000;
const LABELS: i32 = 300;
const LANE: u32 = 18;
const MARGIN: u32 = 50;
const FONT: (&str, i32) = ("sans-serif", 12);

/// A figure in a picture.
struct Lane {
    label: String,
    /// Values and how often each was measured.
    histogram: Vec<(u64, u64)>,
    /// What was promised.
    promise: Option<u64>,
}

/// The promises and what was measured, of the JSON that `cargo xtask bench --json` writes. Rows with a single event have no histogram.
///
/// # Errors
/// It cannot be drawn.
pub fn promises(figures: &Value) -> Result<String> {
    let rows = ROWS.iter().filter(|row| matches!(row.unit, Unit::El2 | Unit::Elapsed));
    let lanes = rows.filter_map(|row| {
        let figure = benches(figures).find(|at| at["name"] == row.name).filter(|at| at["n"] != 1)?;
        let label = format!("{}, {}", row.name, row.unit.name());
        Some(Lane { label, histogram: histogram(figure), promise: Some(row.promise) })
    });
    draw(&lanes.collect::<Vec<_>>())
}

/// The peers beside each other, of the JSON that `cargo xtask bench --against xen,kvm --json` writes.
///
/// # Errors
/// It cannot be drawn.
pub fn peers(figures: &Value) -> Result<String> {
    let text = |figure: &Value, key: &str| figure[key].as_str().unwrap_or_default().to_owned();
    let lanes = benches(figures).map(|figure| {
        let [name, contender, cpu] = ["name", "contender", "cpu"].map(|key| text(figure, key));
        Lane { label: format!("{name}: {contender}, {cpu}"), histogram: histogram(figure), promise: None }
    });
    draw(&lanes.collect::<Vec<_>>())
}

fn benches(figures: &Value) -> impl Iterator<Item = &Value> {
    figures["benches"].as_array().into_iter().flatten()
}

fn histogram(figure: &Value) -> Vec<(u64, u64)> {
    let pairs = figure["histogram"].as_array().into_iter().flatten();
    pairs.filter_map(|pair| Some((pair[0].as_u64()?, pair[1].as_u64()?))).collect()
}

/// An SVG picture. Both axes are logarithmic: a bar reaches the top of its lane if all events have its value.
fn draw(lanes: &[Lane]) -> Result<String> {
    let values =
        || lanes.iter().flat_map(|lane| lane.histogram.iter().map(|pair| pair.0).chain(lane.promise));
    let least = values().filter(|&value| value > 0).min().unwrap_or(1) as f64;
    let most = values().max().unwrap_or(1).max(2) as f64;
    let mut svg = String::new();
    {
        let height = lanes.len() as u32 * LANE + MARGIN;
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let wrong = |error| anyhow!("{error}");
        area.fill(&WHITE).map_err(wrong)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .margin_left(LABELS)
            .x_label_area_size(30)
            .build_cartesian_2d((least * 0.8..most * 1.2).log_scale(), 0f64..lanes.len() as f64)
            .map_err(wrong)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_y_mesh().y_labels(0).x_label_formatter(&|value| format!("{value:.0}"));
        mesh.x_desc("instructions; an instruction is a nanosecond of virtual time").draw().map_err(wrong)?;
        for (index, lane) in lanes.iter().enumerate() {
            let base = (lanes.len() - 1 - index) as f64;
            let events: u64 = lane.histogram.iter().map(|pair| pair.1).sum();
            let bars = lane.histogram.iter().map(|&(value, count)| {
                let part = (1.0 + count as f64).ln() / (1.0 + events as f64).ln();
                let at = (value as f64).max(least);
                PathElement::new([(at, base), (at, base + 0.9 * part)], BLUE.stroke_width(2))
            });
            chart.draw_series(bars).map_err(wrong)?;
            if let Some(promise) = lane.promise.filter(|&promise| promise > 0) {
                let at = promise as f64;
                let mark = PathElement::new([(at, base), (at, base + 0.9)], RED.stroke_width(1));
                chart.draw_series([mark]).map_err(wrong)?;
            }
            let label = Text::new(lane.label.clone(), (10, 12 + index as i32 * LANE as i32), FONT);
            area.draw(&label).map_err(wrong)?;
        }
        area.present().map_err(wrong)?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_contender_has_a_lane_and_every_value_a_bar() {
        let bench = |contender: &str, histogram: &[[u64; 2]]| json!({ "name": "tick", "contender": contender, "cpu": "max", "histogram": histogram });
        let figures =
            json!({ "benches": [bench("one", &[[100, 3], [200, 1]]), bench("two", &[[4_000, 9]])] });
        let picture = peers(&figures).unwrap();
        assert!(picture.contains("tick: one, max") && picture.contains("tick: two, max"));
        assert_eq!(picture.matches("stroke=\"#0000FF\"").count(), 3, "{picture}");
        assert_eq!(picture, peers(&figures).unwrap());
    }

    #[test]
    fn nothing_measured_is_an_empty_picture() {
        assert!(draw(&[]).unwrap().starts_with("<svg"));
    }
}
