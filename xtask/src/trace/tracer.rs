//! Reads the trace of a machine that runs.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use machines::Machine;
use qemu::{Config, HYPERVISOR, Memory};
use trace::{Entry, Item, Reader, Timeline, Writer};

use super::top::Top;

/// The machine's RAM for the reader.
struct Ram(Memory);

impl trace::Memory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        self.0.read(address, into)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.0.write(address, bytes)
    }
}

/// Who reads the trace, and what becomes of it.
pub struct Tracer {
    vms: Vec<(String, u32)>,
    /// Until the hypervisor has said where its trace is.
    ram: Option<Ram>,
    address: Option<u64>,
    reader: Option<Reader<Ram>>,
    timeline: Timeline,
    entries: Vec<Entry>,
    file: Option<BufWriter<File>>,
    writer: Option<Writer<BufWriter<File>>>,
    top: Option<Top>,
    /// The machine stands still whenever it is looked at.
    lockstep: bool,
    failure: Option<Error>,
}

impl Tracer {
    /// Has `config` trace, for a Perfetto trace in `file` and for `top`. The machine is to run in `lockstep`, or not.
    ///
    /// # Errors
    /// There is no memory to share, or the file cannot be written.
    pub fn new(
        config: &mut Config,
        machine: &Machine,
        file: Option<&Path>,
        top: Option<Top>,
        lockstep: bool,
    ) -> Result<Self> {
        let ram = Memory::new(&config.board)?;
        config.extra.extend(ram.arguments());
        config.bootargs.push("trace=on".into());
        let create =
            |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        Ok(Self {
            vms: machine.vms.iter().map(|vm| (vm.name.clone(), vm.vcpus)).collect(),
            ram: Some(Ram(ram)),
            address: None,
            reader: None,
            timeline: Timeline::default(),
            entries: Vec::new(),
            file: file.map(create).transpose()?.map(BufWriter::new),
            writer: None,
            top,
            lockstep,
            failure: None,
        })
    }

    /// Takes a line of a console: the hypervisor says in its log where the trace is.
    pub fn line(&mut self, vm: &str, line: &str) {
        if vm == HYPERVISOR
            && let Some((_, address)) =
                line.strip_prefix("trace: ").and_then(|rest| rest.split_once(" at 0x"))
        {
            self.address = u64::from_str_radix(address.trim_end(), 16).ok();
        }
    }

    /// Reads what is new. Returns whether that is enough: it has failed, or `top` has shown all that it was to show.
    pub fn look(&mut self) -> bool {
        if self.failure.is_none() {
            self.failure = self.read(self.lockstep).err();
        }
        self.failure.is_some() || self.top.as_mut().is_some_and(|top| top.look(&self.timeline, self.lockstep))
    }

    /// Reads what is left of a machine that has ended.
    ///
    /// # Errors
    /// There is no trace, or it could not be written.
    pub fn finish(mut self) -> Result<()> {
        if let Some(failure) = self.failure {
            return Err(failure.context("cannot trace"));
        }
        // In lockstep what came after the last look depends on when QEMU was killed.
        if !self.lockstep {
            self.read(true)?;
        }
        if self.reader.is_none() {
            bail!("the hypervisor has not said where its trace is");
        }
        let Self { timeline, writer, .. } = self;
        if let Some(mut writer) = writer {
            timeline.open().try_for_each(|item| writer.write(&item)).context("cannot write the trace")?;
            writer.finish().context("cannot write the trace")?;
        }
        Ok(())
    }

    fn read(&mut self, stands: bool) -> Result<()> {
        if self.reader.is_none() && !self.open()? {
            return Ok(());
        }
        let Some(reader) = &mut self.reader else { return Ok(()) };
        reader.drain(&mut self.entries)?;
        let (mut written, writer, top) = (Ok(()), &mut self.writer, &mut self.top);
        self.timeline.feed(std::mem::take(&mut self.entries), stands, &mut |item: Item| {
            if let (Ok(()), Some(writer)) = (&written, &mut *writer) {
                written = writer.write(&item);
            }
            if let Some(top) = &mut *top {
                top.count(&item);
            }
        });
        written.context("cannot write the trace")
    }

    /// Finds the rings; false if there are none yet.
    fn open(&mut self) -> Result<bool> {
        let Some((address, ram)) = self.address.and_then(|address| Some((address, self.ram.take()?))) else {
            return Ok(false);
        };
        let reader =
            Reader::open(ram, address)?.context("where the hypervisor says it is there is no trace")?;
        let vms: Vec<(&str, u32)> = self.vms.iter().map(|(name, vcpus)| (name.as_str(), *vcpus)).collect();
        if let Some(file) = self.file.take() {
            self.writer = Some(Writer::new(file, reader.cpus(), &vms).context("cannot write the trace")?);
        }
        self.reader = Some(reader);
        Ok(true)
    }
}
