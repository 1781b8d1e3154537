//! Perfetto's trace format (`protos/perfetto/trace/perfetto_trace.proto` in its repository), as far as it is used here: a track for each
//! CPU, and for each VM with one for each of its vCPUs; on them slices and instants.

use std::borrow::Cow;
use std::io::{self, Write};

use prost::Message;

use crate::exits;
use crate::timeline::{Item, State, Track};

/// `Trace`. Two of them one after the other are one.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Trace {
    #[prost(message, repeated, tag = "1")]
    pub(crate) packet: Vec<TracePacket>,
}

/// `TracePacket`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TracePacket {
    /// ns.
    #[prost(uint64, optional, tag = "8")]
    pub(crate) timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "10")]
    pub(crate) trusted_packet_sequence_id: Option<u32>,
    #[prost(message, optional, tag = "11")]
    pub(crate) track_event: Option<TrackEvent>,
    #[prost(message, optional, tag = "60")]
    pub(crate) track_descriptor: Option<TrackDescriptor>,
}

/// `TrackDescriptor`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TrackDescriptor {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) uuid: Option<u64>,
    #[prost(string, optional, tag = "2")]
    pub(crate) name: Option<String>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) parent_uuid: Option<u64>,
    #[prost(enumeration = "ChildOrdering", optional, tag = "11")]
    pub(crate) child_ordering: Option<i32>,
    #[prost(int32, optional, tag = "12")]
    pub(crate) sibling_order_rank: Option<i32>,
}

/// `TrackDescriptor.ChildTracksOrdering`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ChildOrdering {
    Unknown = 0,
    Explicit = 3,
}

/// `TrackEvent`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TrackEvent {
    #[prost(message, repeated, tag = "4")]
    pub(crate) debug_annotations: Vec<DebugAnnotation>,
    #[prost(enumeration = "Type", optional, tag = "9")]
    pub(crate) r#type: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    pub(crate) track_uuid: Option<u64>,
    #[prost(string, optional, tag = "23")]
    pub(crate) name: Option<String>,
}

/// `TrackEvent.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Type {
    Unspecified = 0,
    SliceBegin = 1,
    SliceEnd = 2,
    Instant = 3,
}

/// `DebugAnnotation`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DebugAnnotation {
    #[prost(uint64, optional, tag = "3")]
    pub(crate) uint_value: Option<u64>,
    #[prost(string, optional, tag = "10")]
    pub(crate) name: Option<String>,
}

/// Everything is one sequence of packets.
const SEQUENCE: u32 = 1;
/// The tracks' numbers: of all CPUs together, and bases for those of the CPUs, VMs and vCPUs.
const CPUS: u64 = 1;
const CPU: u64 = 0x100;
const VM: u64 = 0x200;
const VCPU: u64 = 0x300;
/// What names of slices and instants begin with, or are.
pub(crate) const LOST: &str = "lost: ";
pub(crate) const OFF: &str = "not traced";

fn uuid(track: Track) -> u64 {
    match track {
        Track::Cpu(cpu) => CPU + u64::from(cpu),
        Track::Vcpu(vcpu) => VCPU + u64::from(vcpu),
    }
}

/// Writes a Perfetto trace as it comes.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// By a vCPU's number.
    names: Vec<String>,
}

/// The names of all vCPUs, by their numbers: VM/index, or the VM's alone if that is its only one.
pub(crate) fn names<'a>(vms: impl IntoIterator<Item = (&'a str, u32)>) -> Vec<String> {
    let name = |(vm, vcpus): (&str, u32)| {
        let vm = vm.to_owned();
        (0..vcpus).map(move |n| if vcpus == 1 { vm.clone() } else { format!("{vm}/{n}") })
    };
    vms.into_iter().flat_map(name).collect()
}

impl<W: Write> Writer<W> {
    /// A trace of these CPUs, and of VMs with so many vCPUs each, in the machine file's order.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(out: W, cpus: impl Iterator<Item = u8>, vms: &[(&str, u32)]) -> io::Result<Self> {
        let mut writer = Self { out, names: names(vms.iter().copied()) };
        writer.describe(CPUS, "CPUs", None, 0)?;
        for cpu in cpus {
            writer.describe(CPU + u64::from(cpu), &format!("CPU {cpu}"), Some(CPUS), cpu.into())?;
        }
        let mut next = 0;
        for (n, (vm, vcpus)) in (0..).zip(vms) {
            writer.describe(VM + n as u64, &format!("VM {vm}"), None, n + 1)?;
            for index in 0..*vcpus {
                let name = writer.names[next as usize].clone();
                writer.describe(VCPU + next, &name, Some(VM + n as u64), index as i32)?;
                next += 1;
            }
        }
        Ok(writer)
    }

    /// Writes what happened.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self, item: &Item) -> io::Result<()> {
        match *item {
            Item::Span { track, state, start, end } => {
                let name = self.state(state);
                self.event(start, track, Type::SliceBegin, Some(&name), None)?;
                self.event(end, track, Type::SliceEnd, None, None)
            }
            Item::Exit { cpu, at, syndrome, detail, .. } => {
                let (name, detail) = (exits::reason(syndrome, detail), exits::detail(syndrome, detail));
                self.event(at, Track::Cpu(cpu), Type::Instant, Some(&name), detail)
            }
            Item::Inject { vcpu, at, timer } => {
                let name = if timer { "timer interrupt" } else { "interrupt" };
                self.event(at, Track::Vcpu(vcpu), Type::Instant, Some(name), None)
            }
            Item::WakeUp { vcpu, at } => {
                self.event(at, Track::Vcpu(vcpu), Type::Instant, Some("wake-up"), None)
            }
            Item::Job { vcpu, at, late } => {
                let name = if late { "deadline missed" } else { "job done" };
                self.event(at, Track::Vcpu(vcpu), Type::Instant, Some(name), None)
            }
        }
    }

    /// Lets go of the file, which is whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn state(&self, state: State) -> Cow<'static, str> {
        match state {
            State::Has(vcpu) => match self.names.get(usize::from(vcpu)) {
                Some(name) => name.clone().into(),
                None => format!("vCPU {vcpu}").into(),
            },
            State::Lost(count) => format!("{LOST}{count}").into(),
            State::Off => OFF.into(),
            State::Runs(cpu) => format!("runs on CPU {cpu}").into(),
            State::Waits => "waits".into(),
            State::Sleeps => "sleeps".into(),
            State::Exhausted => "out of budget".into(),
        }
    }

    fn describe(&mut self, uuid: u64, name: &str, parent: Option<u64>, rank: i32) -> io::Result<()> {
        let ordering = parent.is_none().then_some(ChildOrdering::Explicit as i32);
        let descriptor = TrackDescriptor {
            uuid: Some(uuid),
            name: Some(name.into()),
            parent_uuid: parent,
            child_ordering: ordering,
            sibling_order_rank: Some(rank),
        };
        self.packet(TracePacket { track_descriptor: Some(descriptor), ..TracePacket::default() })
    }

    fn event(
        &mut self,
        at: u64,
        track: Track,
        r#type: Type,
        name: Option<&str>,
        detail: Option<(&'static str, u64)>,
    ) -> io::Result<()> {
        let annotation =
            |(name, value): (&str, _)| DebugAnnotation { uint_value: Some(value), name: Some(name.into()) };
        let event = TrackEvent {
            debug_annotations: detail.map(annotation).into_iter().collect(),
            r#type: Some(r#type as i32),
            track_uuid: Some(uuid(track)),
            name: name.map(Into::into),
        };
        self.packet(TracePacket { timestamp: Some(at), track_event: Some(event), ..TracePacket::default() })
    }

    fn packet(&mut self, packet: TracePacket) -> io::Result<()> {
        let packet = TracePacket { trusted_packet_sequence_id: Some(SEQUENCE), ..packet };
        self.out.write_all(&Trace { packet: vec![packet] }.encode_to_vec())
    }
}
