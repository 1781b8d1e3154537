//! What `machine check` prints about a good machine file.

use crate::machine::{Machine, Vm};
use crate::units::{show_duration, show_size};
use bundle::Schedule;
use std::fmt::Write as _;

impl Machine {
    /// A table of the machine's VMs and of their sums, for people.
    pub fn summary(&self) -> String {
        let mut rows = vec![["VM", "vCPUs", "memory", "CPUs", "schedule"].map(String::from)];
        rows.extend(self.vms.iter().map(|vm| {
            let memory = show_size(vm.memory.size);
            [vm.name.clone(), vm.vcpus.to_string(), memory, cpus(vm.affinity), show_schedule(&vm.schedule)]
        }));
        let sum = |of: fn(&Vm) -> u64| self.vms.iter().map(of).sum::<u64>();
        let memory = show_size(sum(|vm| vm.memory.size));
        let vcpus = sum(|vm| vm.vcpus.into()).to_string();
        rows.push(["total".into(), vcpus, memory, String::new(), self.totals()]);

        let mut out = format!("machine {}\n", self.name);
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let [name, vcpus, memory, cpus] = [0, 1, 2, 3].map(width);
        for [n, v, m, c, schedule] in &rows {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {n:name$}  {v:>vcpus$}  {m:>memory$}  {c:cpus$}  {schedule}");
        }
        out
    }

    /// What the schedules add up to.
    fn totals(&self) -> String {
        let (mut weights, mut reserved, mut exclusive) = (0, 0.0, 0);
        for vm in &self.vms {
            match vm.schedule {
                Schedule::Share { weight, .. } => weights += weight,
                Schedule::Reservation { budget_ns, period_ns, .. } => {
                    reserved += f64::from(vm.vcpus) * percent(budget_ns, period_ns);
                }
                Schedule::Exclusive => exclusive += vm.vcpus,
            }
        }
        format!("{reserved:.1} % of one CPU reserved, {exclusive} CPUs exclusive, weights {weights}")
    }
}

fn percent(budget_ns: u64, period_ns: u64) -> f64 {
    100.0 * budget_ns as f64 / period_ns as f64
}

fn show_schedule(schedule: &Schedule) -> String {
    match *schedule {
        Schedule::Share { weight, cap_percent: 0 } => format!("share, weight {weight}"),
        Schedule::Share { weight, cap_percent } => format!("share, weight {weight}, cap {cap_percent} %"),
        Schedule::Reservation { budget_ns, period_ns, deadline_ns } => {
            let [budget, period, deadline] = [budget_ns, period_ns, deadline_ns].map(show_duration);
            let by = if deadline == period { String::new() } else { format!(" by {deadline}") };
            format!("{budget} in every {period}{by} ({:.1} %)", percent(budget_ns, period_ns))
        }
        Schedule::Exclusive => "a CPU each".into(),
    }
}

fn cpus(affinity: u64) -> String {
    if affinity == u64::MAX {
        return "all".into();
    }
    let cpus = (0..64).filter(|cpu| affinity >> cpu & 1 != 0).map(|cpu| cpu.to_string());
    cpus.collect::<Vec<_>>().join(",")
}
