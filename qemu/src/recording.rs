//! What the QEMU plugin recorded during a run: how it is asked for, and how it is read.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
pub use events::{Event, Guest, JOB_BEGIN, JOB_END, Kind};

/// A recording that a run is to make.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The plugin, `libmobivmm_qemu_plugin.so`.
    pub plugin: PathBuf,
    /// Where the events go.
    pub file: PathBuf,
    /// Record entries to EL2, returns from it, waits and changes of the interrupt mask.
    pub entries: bool,
    /// Where each run of instructions at EL2 is recorded.
    pub steps: Steps,
    /// Virtual addresses in guests whose execution is recorded.
    pub watch: Vec<u64>,
}

/// Which runs of instructions at EL2 are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// None.
    None,
    /// Those between the marks that ask for it.
    Marked,
    /// Those from reset on, up to a mark that ends it.
    All,
}

impl Recording {
    /// A recording of all but steps.
    pub fn new(plugin: PathBuf, file: PathBuf) -> Self {
        Self { plugin, file, entries: true, steps: Steps::None, watch: Vec::new() }
    }

    /// QEMU's arguments for it.
    pub fn arguments(&self) -> [OsString; 2] {
        let mut value = OsString::from(&self.plugin);
        // QEMU takes two commas for one in a value.
        value.push(format!(",out={}", self.file.display().to_string().replace(',', ",,")));
        if !self.entries {
            value.push(",entries=off");
        }
        value.push(match self.steps {
            Steps::None => "",
            Steps::Marked => ",steps=on",
            Steps::All => ",steps=all",
        });
        for address in &self.watch {
            value.push(format!(",watch={address:#x}"));
        }
        ["-plugin".into(), value]
    }

    /// Reads what was recorded.
    ///
    /// # Errors
    /// There is no such file; later, that it is none of the plugin's.
    pub fn read(&self) -> Result<Events> {
        Events::open(&self.file)
    }
}

/// The events of a recording, in the order in which they happened.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: BufReader<File>,
}

impl Events {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.into(), file: BufReader::with_capacity(1 << 16, file) })
    }

    fn event(&mut self) -> Result<Option<Event>> {
        let mut bytes = [0; events::SIZE];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => {}
            // QEMU may have been killed in the middle of one.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => bail!("{}: {error}", self.path.display()),
        }
        match Event::decode(&bytes) {
            Some(event) => Ok(Some(event)),
            None => bail!("{} is no recording of the plugin", self.path.display()),
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.event().transpose()
    }
}

/// Virtual time, from the instruction count and the times at which the physical counter was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// By how much CNTPCT_EL0 is ahead of the instruction count: the time in which all CPUs slept.
    ahead: u64,
}

impl Clock {
    /// Takes note of an event.
    pub fn observe(&mut self, event: &Event) {
        if let Kind::Clock { ticks } = event.kind {
            self.ahead = ticks.wrapping_sub(event.total);
        }
    }

    /// CNTPCT_EL0 when an event happened, if its frequency is 1 GHz, an instruction takes 1 ns, and no CPU has read it since the
    /// machine was idle last.
    pub fn time(&self, event: &Event) -> u64 {
        event.total.wrapping_add(self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_recording_is_asked_for_by_arguments() {
        let mut recording = Recording::new("/p.so".into(), "/a,b".into());
        assert_eq!(recording.arguments(), ["-plugin", "/p.so,out=/a,,b"].map(OsString::from));
        (recording.entries, recording.steps, recording.watch) = (false, Steps::Marked, vec![0x4000, 1]);
        let all = "/p.so,out=/a,,b,entries=off,steps=on,watch=0x4000,watch=0x1";
        assert_eq!(recording.arguments()[1], all);
    }

    #[test]
    fn a_cut_off_event_ends_a_recording_and_a_wrong_one_is_an_error() {
        let path = std::env::temp_dir().join(format!("mobivmm-recording-{}", std::process::id()));
        let event = Event { cpu: 1, total: 2, el2: 3, own: 4, kind: Kind::Wait };
        let mut file = File::create(&path).unwrap();
        file.write_all(&event.encode()).unwrap();
        file.write_all(&event.encode()[..9]).unwrap();
        let mut events = Events::open(&path).unwrap();
        assert_eq!(events.next().unwrap().unwrap(), event);
        assert!(events.next().is_none());
        std::fs::write(&path, [0xff; events::SIZE]).unwrap();
        assert!(Events::open(&path).unwrap().next().unwrap().is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_clock_goes_on_while_all_sleep() {
        let mut clock = Clock::default();
        let at = |total, kind| Event { cpu: 0, total, el2: 0, own: 0, kind };
        clock.observe(&at(100, Kind::Clock { ticks: 1_000 }));
        assert_eq!(clock.time(&at(150, Kind::Wait)), 1_050);
    }
}
