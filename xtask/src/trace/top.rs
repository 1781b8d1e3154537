//! `cargo xtask top`: who does how much, while the machine runs.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use machines::Machine;
use trace::{Item, Meter, Row, Timeline};

use crate::run::RunOptions;

/// Options of `cargo xtask top`.
#[derive(Args, Debug)]
pub struct TopOptions {
    /// How often there are new figures at the most, on the machine's clock
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = machines::duration)]
    every: u64,
    /// End after so long, on the machine's clock
    #[arg(long = "for", value_name = "TIME", value_parser = machines::duration)]
    duration: Option<u64>,
    /// End after the first figures
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    pub run: RunOptions,
}

impl TopOptions {
    /// What shows them.
    ///
    /// # Errors
    /// The terminal is none after all.
    pub fn top(&self, machine: &Machine) -> Result<Top> {
        let duration = if self.once { Some(self.every) } else { self.duration };
        let vms = machine.vms.iter().map(|vm| (vm.name.clone(), vm.vcpus)).collect();
        let screen =
            stdout().is_terminal().then(Screen::open).transpose().context("cannot use the terminal")?;
        Ok(Top { every: self.every.max(1), duration, vms, began: None, screen })
    }
}

/// Shows figures as they come: in place on a terminal, else one table after the other.
pub struct Top {
    every: u64,
    duration: Option<u64>,
    vms: Vec<(String, u32)>,
    began: Option<Began>,
    screen: Option<Screen>,
}

/// Since the first record.
struct Began {
    /// When that was, on the machine's clock and on the host's.
    at: u64,
    host: Instant,
    meter: Meter,
}

impl Top {
    /// Takes what happened.
    pub fn count(&mut self, item: &Item) {
        if let Some(began) = &mut self.began {
            began.meter.count(item);
        }
    }

    /// Shows what is due of what a timeline has passed on. If the machine does not stand still (`lockstep`) its time goes on with the
    /// host's, whether or not anything happens. Returns whether that was all.
    pub fn look(&mut self, timeline: &Timeline, lockstep: bool) -> bool {
        if timeline.now() == 0 {
            return self.is_quit();
        }
        let began = self.began.get_or_insert_with(|| Began {
            at: timeline.now(),
            host: Instant::now(),
            meter: Meter::new(self.vms.iter().map(|(name, n)| (name.as_str(), *n)), timeline.now()),
        });
        let passed = if lockstep { Duration::ZERO } else { began.host.elapsed() };
        let now = timeline.now().max(began.at + passed.as_nanos() as u64);
        if now < began.meter.since() + self.every {
            return self.is_quit();
        }
        let rows = began.meter.rows(timeline, now);
        let table = table(now, began.meter.lost(), &rows);
        let shown = match &mut self.screen {
            Some(screen) => screen.show(&table),
            None => stdout().write_all(table.as_bytes()),
        };
        let over = self.duration.is_some_and(|duration| now >= began.at + duration);
        // Nobody reads it any more, or there was enough of it.
        shown.is_err() || over || self.is_quit()
    }

    fn is_quit(&self) -> bool {
        self.screen.is_some() && Screen::is_quit()
    }
}

/// The figures of an interval that ended at `now`.
fn table(now: u64, lost: u64, rows: &[Row]) -> String {
    let mut text = format!("{:.3} s, {lost} records lost\n", now as f64 / 1e9);
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(4);
    let _ = writeln!(
        text,
        "{:width$} {:>7} {:>8} {:>8} {:>10} {:>11}",
        "vCPU", "CPU %", "jobs", "misses", "exits/s", "wake-ups/s"
    );
    for Row { name, share, exits, wakeups, jobs, misses } in rows {
        let _ =
            writeln!(text, "{name:width$} {share:>7.2} {jobs:>8} {misses:>8} {exits:>10.0} {wakeups:>11.0}");
    }
    text
}

/// The terminal while it shows figures; it is as before when this is dropped.
struct Screen;

impl Screen {
    fn open() -> std::io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    fn show(&mut self, text: &str) -> std::io::Result<()> {
        execute!(stdout(), MoveTo(0, 0), Clear(ClearType::All))?;
        stdout().write_all(text.replace('\n', "\r\n").as_bytes())?;
        write!(stdout(), "\r\nq: quit")?;
        stdout().flush()
    }

    /// Whether the person wants to go.
    fn is_quit() -> bool {
        while event::poll(Duration::ZERO).unwrap_or(false) {
            if let Ok(Event::Key(KeyEvent { code, modifiers, .. })) = event::read()
                && (code == KeyCode::Char('q')
                    || (code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL)))
            {
                return true;
            }
        }
        false
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(stdout(), Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_vcpu() {
        let row = |name: &str, share| Row { name: name.into(), share, exits: 1234.4, ..Row::default() };
        let text = table(2_500_000_000, 3, &[row("linux/0", 99.5), row("c", 0.25)]);
        let expected = "2.500 s, 3 records lost\n\
                        vCPU      CPU %     jobs   misses    exits/s  wake-ups/s\n\
                        linux/0   99.50        0        0       1234           0\n\
                        c          0.25        0        0       1234           0\n";
        assert_eq!(text, expected);
    }
}
