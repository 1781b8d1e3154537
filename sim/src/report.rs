//! What a simulation found, for people and for programs.

use sched::Ns;
use serde::Serialize;
use std::fmt;

/// What a simulation found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine's name.
    pub machine: String,
    /// The seed.
    pub seed: u64,
    /// The time that was simulated, in nanoseconds.
    pub duration_ns: Ns,
    /// Each CPU.
    pub cpus: Vec<CpuReport>,
    /// Each vCPU.
    pub vcpus: Vec<VcpuReport>,
    /// Each task of a VM with a reservation.
    pub tasks: Vec<TaskReport>,
}

/// A CPU's figures.
#[derive(Clone, Debug, Serialize)]
pub struct CpuReport {
    /// Percent of the time with reservations and exclusive vCPUs.
    pub reserved: f64,
    /// Percent of the time with shares.
    pub shared: f64,
    /// Percent of the time asleep.
    pub asleep: f64,
    /// How often its timer woke it from sleep.
    pub timer_wakeups: u64,
    /// How often another CPU woke it from sleep.
    pub kick_wakeups: u64,
    /// How often a device woke it from sleep.
    pub device_wakeups: u64,
}

/// A vCPU's figures.
#[derive(Clone, Debug, Serialize)]
pub struct VcpuReport {
    /// The VM's name, and if it has several vCPUs the number.
    pub name: String,
    /// Where its place is, with a reservation or an exclusive CPU.
    pub place: Option<u8>,
    /// Percent of one CPU that it had.
    pub share: f64,
    /// Percent of one CPU that it would have had in the ideal; none for reservations.
    pub ideal: Option<f64>,
    /// The most that it was behind the ideal while it wanted to run, in nanoseconds.
    pub behind_ns: f64,
    /// The most that it was ahead of the ideal, in nanoseconds.
    pub ahead_ns: f64,
    /// The longest time from wanting to run to running, in nanoseconds.
    pub wait_ns: Ns,
    /// The longest time for which it wanted to run while a CPU slept that it may use, in nanoseconds.
    pub idle_wait_ns: Ns,
    /// How often it came onto a CPU.
    pub switches: u64,
    /// How often it woke up.
    pub wakeups: u64,
    /// Its jobs that have had to be done.
    pub jobs: usize,
    /// Those of them that were late.
    pub misses: usize,
}

/// A task's figures.
#[derive(Clone, Debug, Serialize)]
pub struct TaskReport {
    /// The vCPU's name.
    pub vcpu: String,
    /// Its number in the VM, from 0.
    pub task: usize,
    /// Its work, in nanoseconds.
    pub wcet_ns: Ns,
    /// Its period, in nanoseconds.
    pub period_ns: Ns,
    /// Its deadline, in nanoseconds.
    pub deadline_ns: Ns,
    /// The bound of its response time that its reservation's supply allows, in nanoseconds; none if it is beyond the
    /// deadline.
    pub bound_ns: Option<Ns>,
    /// The same by the linear bound of the supply, in nanoseconds.
    pub linear_ns: Option<Ns>,
    /// The longest response in the simulation, in nanoseconds.
    pub seen_ns: Ns,
}

impl Report {
    /// Whether nobody was late, and every task is sure to meet its deadline.
    pub fn passes(&self) -> bool {
        self.vcpus.iter().all(|vcpu| vcpu.misses == 0)
            && self.tasks.iter().all(|task| task.bound_ns.is_some())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine {}, seed {}, {}", self.machine, self.seed, ms(self.duration_ns as f64))?;
        let mut rows =
            vec![row(["CPU", "reserved", "shared", "asleep", "wake-ups", "by timer", "by CPU", "by device"])];
        rows.extend(self.cpus.iter().zip(0..).map(|(cpu, n): (_, u32)| {
            let CpuReport { timer_wakeups, kick_wakeups, device_wakeups, .. } = *cpu;
            let wakeups = timer_wakeups + kick_wakeups + device_wakeups;
            let [reserved, shared, asleep] = [cpu.reserved, cpu.shared, cpu.asleep].map(percent);
            let counts =
                [wakeups, timer_wakeups, kick_wakeups, device_wakeups].map(|count| count.to_string());
            [vec![n.to_string(), reserved, shared, asleep], counts.into()].concat()
        }));
        table(f, &rows)?;

        let header = [
            "vCPU", "place", "share", "ideal", "behind", "ahead", "wait", "switches", "wake-ups", "jobs",
            "misses",
        ];
        let mut rows = vec![row(header)];
        rows.extend(self.vcpus.iter().map(|vcpu| {
            let dash = || "-".to_owned();
            let lag = |ns: f64| if vcpu.ideal.is_some() { ms(ns) } else { dash() };
            vec![
                vcpu.name.clone(),
                vcpu.place.map_or_else(dash, |cpu| format!("CPU {cpu}")),
                percent(vcpu.share),
                vcpu.ideal.map_or_else(dash, percent),
                lag(vcpu.behind_ns),
                lag(vcpu.ahead_ns),
                ms(vcpu.wait_ns as f64),
                vcpu.switches.to_string(),
                vcpu.wakeups.to_string(),
                vcpu.jobs.to_string(),
                vcpu.misses.to_string(),
            ]
        }));
        table(f, &rows)?;

        if !self.tasks.is_empty() {
            let mut rows =
                vec![row(["task", "work", "period", "deadline", "sure within", "linear", "seen", ""])];
            rows.extend(self.tasks.iter().map(|task| {
                let bound = |ns: Option<Ns>| ns.map_or("never".to_owned(), |ns| ms(ns as f64));
                let [wcet, period, deadline, seen] =
                    [task.wcet_ns, task.period_ns, task.deadline_ns, task.seen_ns].map(|ns| ms(ns as f64));
                let name = format!("{}#{}", task.vcpu, task.task);
                let passes = if task.bound_ns.is_some() { "pass" } else { "FAIL" };
                vec![
                    name,
                    wcet,
                    period,
                    deadline,
                    bound(task.bound_ns),
                    bound(task.linear_ns),
                    seen,
                    passes.to_owned(),
                ]
            }));
            table(f, &rows)?;
        }
        let idle_wait = self.vcpus.iter().map(|vcpu| vcpu.idle_wait_ns).max().unwrap_or(0);
        writeln!(f, "longest wait of a share while a CPU slept that it may use: {}", ms(idle_wait as f64))?;
        writeln!(
            f,
            "CPUs that slept all the time: {}",
            self.cpus.iter().filter(|cpu| cpu.asleep == 100.0).count()
        )
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

fn percent(value: f64) -> String {
    format!("{value:.2} %")
}

fn ms(ns: f64) -> String {
    format!("{:.3} ms", ns / 1e6)
}

/// Writes rows with columns of equal width, the first to the left and the others to the right.
fn table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            line += "  ";
            line += &cell;
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    writeln!(f)
}
