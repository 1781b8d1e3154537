//! A trace that was written, read again: figures and a chart.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use prost::Message;
use sim::{Chart, Span};

use crate::perfetto::{LOST, OFF, Trace, TrackDescriptor, TrackEvent, Type};

/// What a trace says of the CPUs.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The CPUs' and the vCPUs' names, in their order.
    cpus: Vec<String>,
    vcpus: Vec<String>,
    /// Who had which CPU, by their places there, in the order of the ends.
    spans: Vec<Span>,
    /// Instants, by the CPU's or the vCPU's name and their own.
    counts: BTreeMap<(String, String), u64>,
    lost: u64,
    /// The first and the last time.
    time: Option<(u64, u64)>,
}

impl Recorded {
    /// Reads a trace that [`crate::Writer`] wrote.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let packets = Trace::decode(bytes).context("no Perfetto trace")?.packet;
        let tracks = packets.iter().filter_map(|packet| packet.track_descriptor.as_ref());
        let tracks: BTreeMap<u64, &TrackDescriptor> = tracks.map(|track| (track.uuid(), track)).collect();
        let root = tracks.values().find(|track| track.parent_uuid.is_none() && track.name() == "CPUs");
        let root = root.context("a trace, but none of MobiVMM's")?.uuid();
        let mut recorded = Self::default();
        // Which CPU a track is, if it is one.
        let mut places = BTreeMap::new();
        for (uuid, track) in tracks.iter().filter(|(_, track)| track.parent_uuid.is_some()) {
            if track.parent_uuid() == root {
                places.insert(*uuid, recorded.cpus.len());
                recorded.cpus.push(track.name().into());
            } else {
                recorded.vcpus.push(track.name().into());
            }
        }
        let mut begun: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
        for packet in &packets {
            let Some(event) = &packet.track_event else { continue };
            let (at, uuid) = (packet.timestamp(), event.track_uuid());
            let track = tracks.get(&uuid).context("an event of no track")?;
            let (first, last) = recorded.time.unwrap_or((at, at));
            recorded.time = Some((first.min(at), last.max(at)));
            match event.r#type() {
                Type::SliceBegin => _ = begun.insert(uuid, (at, event.name())),
                Type::SliceEnd => {
                    let (start, name) = begun.remove(&uuid).context("a slice ends that has not begun")?;
                    if let Some(cpu) = places.get(&uuid) {
                        recorded.span(*cpu, name, start, at)?;
                    }
                }
                Type::Instant => recorded.count(track.name(), event),
                Type::Unspecified => {}
            }
        }
        ensure!(begun.is_empty(), "a slice does not end");
        Ok(recorded)
    }

    /// How many records the hypervisor wrote over before they were read.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// A chart of `length` ns from `start` ns after the beginning on, or of all that there is, as an SVG image.
    pub fn chart(&self, title: &str, start: u64, length: Option<u64>) -> String {
        let (first, last) = self.time.unwrap_or_default();
        let start = first.saturating_add(start).min(last);
        let end = length.map_or(last, |length| start.saturating_add(length).min(last));
        let spans = self.spans.iter().filter(|span| span.end > start && span.start < end);
        let spans = spans.map(|span| Span { start: span.start.max(start), end: span.end.min(end), ..*span });
        let spans: Vec<Span> = spans.collect();
        Chart { title, cpus: &self.cpus, vcpus: &self.vcpus, spans: &spans, time: start..end }.to_string()
    }

    fn span(&mut self, cpu: usize, name: &str, start: u64, end: u64) -> Result<()> {
        if let Some(count) = name.strip_prefix(LOST) {
            self.lost += count.parse::<u64>().context("a slice that says how much is lost, and does not")?;
            return Ok(());
        }
        if name == OFF {
            return Ok(());
        }
        let vcpu = self.vcpus.iter().position(|vcpu| vcpu == name).context("a CPU is nobody's")?;
        self.spans.push(Span { cpu: cpu as u8, vcpu: vcpu as u16, start, end });
        Ok(())
    }

    fn count(&mut self, track: &str, event: &TrackEvent) {
        *self.counts.entry((track.into(), event.name().into())).or_default() += 1;
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.time.unwrap_or_default();
        let whole = (last - first).max(1) as f64;
        writeln!(f, "{:.6} s to {:.6} s, {} records lost", first as f64 / 1e9, last as f64 / 1e9, self.lost)?;
        for (n, name) in self.vcpus.iter().enumerate() {
            let own = self.spans.iter().filter(|span| usize::from(span.vcpu) == n);
            let ran: u64 = own.map(|span| span.end - span.start).sum();
            writeln!(f, "{name}: {:.3} % of a CPU", 100.0 * ran as f64 / whole)?;
        }
        for ((track, name), count) in &self.counts {
            writeln!(f, "{track}: {count} × {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Writer;
    use crate::timeline::{Item, State, Track};

    fn written(items: &[Item]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), [0, 1].into_iter(), &[("a", 1), ("b", 2)]).unwrap();
        items.iter().try_for_each(|item| writer.write(item)).unwrap();
        writer.finish().unwrap()
    }

    fn span(cpu: u8, state: State, start: u64, end: u64) -> Item {
        Item::Span { track: Track::Cpu(cpu), state, start, end }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let exit = Item::Exit { cpu: 1, vcpu: 2, at: 150, syndrome: 0x5a00_0000, detail: 7 };
        let runs = Item::Span { track: Track::Vcpu(2), state: State::Runs(1), start: 100, end: 200 };
        let items = [
            span(0, State::Has(0), 0, 500),
            exit,
            exit,
            span(1, State::Has(2), 100, 200),
            runs,
            span(1, State::Lost(9), 200, 300),
            Item::Job { vcpu: 0, at: 1_000, late: true },
        ];
        let recorded = Recorded::parse(&written(&items)).unwrap();
        let text = "0.000000 s to 0.000001 s, 9 records lost\na: 50.000 % of a CPU\nb/0: 0.000 % of a CPU\n\
                    b/1: 10.000 % of a CPU\nCPU 1: 2 × HVC\na: 1 × deadline missed\n";
        assert_eq!(recorded.to_string(), text);
        let chart = recorded.chart("t", 0, None);
        assert!(chart.contains("CPU 1") && chart.contains("b/1"), "{chart}");
        assert!(!recorded.chart("t", 600, Some(100)).contains("b/1: "));
    }

    #[test]
    fn what_is_none_is_refused() {
        let error = |bytes: &[u8]| Recorded::parse(bytes).unwrap_err().to_string();
        assert_eq!(error(b"no"), "no Perfetto trace");
        assert_eq!(error(b""), "a trace, but none of MobiVMM's");
        let mut half = written(&[span(0, State::Has(0), 1, 2)]);
        // Without the end of the slice.
        half.truncate(half.len() - 13);
        let error = Recorded::parse(&half).unwrap_err().to_string();
        assert!(error.contains("a slice does not end") || error.contains("no Perfetto trace"), "{error}");
    }
}
