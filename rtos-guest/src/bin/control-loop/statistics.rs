//! What the control task records and the others print.

use core::cell::RefCell;
use core::fmt;

use critical_section::Mutex;
use mobi_rtos::histogram::Histogram;
use mobi_rtos::println;
use mobi_rtos::time::{self, Duration};

/// The control loop's statistics.
pub static STATISTICS: Statistics = Statistics(Mutex::new(RefCell::new(Record::new(super::PERIOD))));

/// Statistics that tasks share.
pub struct Statistics(Mutex<RefCell<Record>>);

#[derive(Clone)]
struct Record {
    period: Duration,
    lateness: Histogram,
    misses: u32,
    /// The plant's output after the last job, in Q16.16.
    output: i32,
}

impl Record {
    const fn new(period: Duration) -> Self {
        Self { period, lateness: Histogram::new(), misses: 0, output: 0 }
    }
}

impl Statistics {
    /// Records a job.
    pub fn record(&self, late: Duration, misses: u32, output: i32) {
        critical_section::with(|cs| {
            let mut record = self.0.borrow_ref_mut(cs);
            record.lateness.record(late);
            record.misses += misses;
            record.output = output;
        });
    }

    /// Begins anew, with another period.
    pub fn restart(&self, period: Duration) {
        critical_section::with(|cs| *self.0.borrow_ref_mut(cs) = Record::new(period));
    }

    /// Prints the line of figures and the histogram.
    pub fn print(&self) {
        let record = critical_section::with(|cs| self.0.borrow_ref(cs).clone());
        println!("{}", Summary(&record));
        println!("jitter{}", Buckets(&record.lateness));
    }

    /// Prints the plant's output.
    pub fn print_output(&self) {
        let output = critical_section::with(|cs| self.0.borrow_ref(cs).output);
        println!("output={}.{:02}", output >> 16, ((output & 0xFFFF) * 100) >> 16);
    }
}

struct Summary<'a>(&'a Record);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { period, lateness, misses, .. } = self.0;
        let [min, p50] = [lateness.min(), lateness.quantile(500)].map(|d| d.as_nanos());
        let [p99, max] = [lateness.quantile(990), lateness.max()].map(|d| d.as_nanos());
        write!(f, "period={}us n={} min={min}ns p50={p50}ns ", period.as_micros(), lateness.count())?;
        write!(f, "p99={p99}ns max={max}ns misses={misses}")?;
        match time::stolen() {
            Some(stolen) => write!(f, " stolen={}us", stolen.as_micros()),
            None => Ok(()),
        }
    }
}

struct Buckets<'a>(&'a Histogram);

impl fmt::Display for Buckets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.buckets().try_for_each(|(end, count)| write!(f, " <={}ns:{count}", end.as_nanos()))
    }
}
