//! Gantt charts: a row for each CPU, coloured by vCPU, and a row for each vCPU, coloured likewise with the CPU written in.

use std::fmt;
use std::ops::Range;

use crate::Outcome;
use crate::meter::Span;
use sched::Ns;
use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Text, Title};

const ROW: f64 = 24.0;
const BAR: f64 = 18.0;
const LEFT: f64 = 120.0;
const WIDTH: f64 = 1400.0;
const TOP: f64 = 40.0;
/// Lines of the time axis.
const TICKS: u32 = 10;

/// Who has which CPU when, as an SVG image.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// The CPUs' names.
    pub cpus: &'a [String],
    /// The vCPUs' names.
    pub vcpus: &'a [String],
    /// Who had which CPU, by their places among the names; all in `time`.
    pub spans: &'a [Span],
    /// What it shows, in nanoseconds.
    pub time: Range<Ns>,
}

impl Outcome {
    /// The recorded part of the simulation as an SVG image.
    pub fn chart(&self) -> String {
        let title = format!("{}, seed {}", self.report.machine, self.report.seed);
        let cpus: Vec<String> = (0..self.report.cpus.len()).map(|cpu| format!("CPU {cpu}")).collect();
        let vcpus: Vec<String> = self.report.vcpus.iter().map(|vcpu| vcpu.name.clone()).collect();
        let time = 0..self.charted_ns;
        Chart { title: &title, cpus: &cpus, vcpus: &vcpus, spans: &self.spans, time }.to_string()
    }
}

impl fmt::Display for Chart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cpus, vcpus) = (self.cpus.len(), self.vcpus.len());
        // One row between the two parts.
        let height = TOP + (cpus + 1 + vcpus) as f64 * ROW + ROW;
        let mut document = Document::new()
            .set("viewBox", (0.0, 0.0, LEFT + WIDTH + 20.0, height))
            .set("font-family", "sans-serif")
            .set("font-size", 12)
            .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"))
            .add(label(LEFT, 16.0, self.title))
            .add(self.axis(height));
        for (n, cpu) in self.cpus.iter().enumerate() {
            document = document.add(label(4.0, row(n) + 13.0, cpu));
        }
        for (n, vcpu) in self.vcpus.iter().enumerate() {
            document = document.add(label(4.0, row(cpus + 1 + n) + 13.0, vcpu));
        }
        for span in self.spans {
            let (cpu, vcpu) = (usize::from(span.cpu), usize::from(span.vcpu));
            document = document.add(self.bar(span, row(cpu), &self.vcpus[vcpu]));
            document = document.add(self.bar(span, row(cpus + 1 + vcpu), &self.cpus[cpu]));
        }
        write!(f, "{document}")
    }
}

impl Chart<'_> {
    /// Where a time lies, in the chart's units.
    fn x(&self, time: Ns) -> f64 {
        let Range { start, end } = self.time;
        LEFT + WIDTH * (time.min(end) - start) as f64 / (end - start) as f64
    }

    fn bar(&self, span: &Span, y: f64, text: &str) -> Rectangle {
        let (start, end) = (self.x(span.start), self.x(span.end));
        // Golden-angle steps keep the hues of neighbours apart.
        let hue = u32::from(span.vcpu) * 137 % 360;
        let times = format!("{text}: {:.3} to {:.3} ms", span.start as f64 / 1e6, span.end as f64 / 1e6);
        Rectangle::new()
            .set("x", format!("{start:.2}"))
            .set("y", y)
            .set("width", format!("{:.2}", (end - start).max(0.1)))
            .set("height", BAR)
            .set("fill", format!("hsl({hue},65%,60%)"))
            .add(Title::new(times))
    }

    fn axis(&self, height: f64) -> Group {
        let Range { start, end } = self.time;
        let ticks = (0..=TICKS).map(|tick| start + (end - start) * Ns::from(tick) / Ns::from(TICKS));
        ticks.fold(Group::new(), |group, time| {
            let x = self.x(time);
            let line = Line::new().set("x1", x).set("x2", x).set("y1", TOP - 6.0).set("y2", height);
            let text = format!("{:.2} ms", time as f64 / 1e6);
            group.add(line.set("stroke", "#ccc")).add(label(x, TOP - 8.0, &text))
        })
    }
}

fn row(n: usize) -> f64 {
    TOP + n as f64 * ROW
}

fn label(x: f64, y: f64, text: &str) -> Text {
    Text::new(text).set("x", x).set("y", y)
}
