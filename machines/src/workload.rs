//! What a VM's vCPUs do in the simulator. EL2 never sees it: the bundle does not contain it.

use crate::fields::{Field, Fields};
use crate::{Error, Schedule, schema};
use bundle::MAX_PERIOD_NS;

/// What each vCPU of a VM does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Runs whenever it can.
    Busy,
    /// An RTOS: runs the most urgent task that has a job, and sleeps when none has.
    Tasks(Vec<Task>),
    /// Runs, and sleeps across every tick, so that who samples at ticks never sees it.
    Dodger {
        /// From a tick until it sleeps, in nanoseconds.
        work_ns: u64,
        /// From tick to tick, in nanoseconds.
        period_ns: u64,
    },
    /// Input and output: interrupts come in bursts of up to 16, each with a little work.
    Bursty {
        /// For each interrupt, in nanoseconds.
        work_ns: u64,
        /// From burst to burst, in the mean, in nanoseconds.
        period_ns: u64,
    },
}

/// Work that comes again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Each job's work, in nanoseconds.
    pub wcet_ns: u64,
    /// From release to release at the least, in nanoseconds.
    pub period_ns: u64,
    /// A job not done so long after its release is a miss, in nanoseconds; at most the period.
    pub deadline_ns: u64,
    /// A larger number goes first.
    pub priority: u64,
    /// The first release, in nanoseconds; none for one within the first period that the seed decides.
    pub offset_ns: Option<u64>,
    /// Releases may be up to twice the period apart, as the seed decides.
    pub sporadic: bool,
}

/// The names of the workloads with their usual figures: work and period in nanoseconds, for who has no reservation.
const KINDS: [(&str, u64, u64); 7] = [
    ("busy", 0, 0),
    ("periodic", 2_000_000, 10_000_000),
    ("sporadic", 2_000_000, 10_000_000),
    ("sleeper", 100_000, 1_000_000_000),
    ("flooder", 5_000, 10_000),
    ("dodger", 9_900_000, 10_000_000),
    ("bursty", 100_000, 5_000_000),
];
/// The kind that is given as a list.
const TASKS: &str = "tasks";
/// The most tasks of one RTOS: mobi-rtos has 64 priorities.
const MAX_TASKS: usize = 64;

impl Workload {
    /// The workload named `kind` with its usual figures. Periodic and sporadic work of a reservation takes four fifths
    /// of its budget.
    pub fn of_kind(kind: &str, schedule: &Schedule) -> Option<Self> {
        let &(_, work_ns, period_ns) = KINDS.iter().find(|(name, ..)| *name == kind)?;
        let (work_ns, period_ns) = match (kind, schedule) {
            ("periodic" | "sporadic", Schedule::Reservation { budget_ns, period_ns, .. }) => {
                (budget_ns * 4 / 5, *period_ns)
            }
            _ => (work_ns, period_ns),
        };
        Some(Self::with(kind, work_ns, period_ns, None, schedule))
    }

    /// What a VM does whose file says nothing: all that it is promised, and with a share all that it can get.
    pub(crate) fn usual(schedule: &Schedule) -> Self {
        match schedule {
            Schedule::Reservation { .. } => Self::of_kind("periodic", schedule).unwrap_or(Self::Busy),
            Schedule::Share { .. } | Schedule::Exclusive => Self::Busy,
        }
    }

    /// The names of [`Workload::of_kind`].
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(name, ..)| *name)
    }

    fn with(kind: &str, work_ns: u64, period_ns: u64, offset_ns: Option<u64>, schedule: &Schedule) -> Self {
        let deadline_ns = match schedule {
            Schedule::Reservation { deadline_ns, .. } => period_ns.min(*deadline_ns),
            Schedule::Share { .. } | Schedule::Exclusive => period_ns,
        };
        match kind {
            "busy" => Self::Busy,
            "dodger" => Self::Dodger { work_ns, period_ns },
            "bursty" => Self::Bursty { work_ns, period_ns },
            _ => {
                let sporadic = kind == "sporadic";
                let wcet_ns = work_ns;
                Self::Tasks(vec![Task { wcet_ns, period_ns, deadline_ns, priority: 0, offset_ns, sporadic }])
            }
        }
    }

    pub(crate) fn read(field: &Field<'_>, schedule: &Schedule) -> Result<Self, Error> {
        let table = field.table(&schema::WORKLOAD)?;
        if let Some(tasks) = table.get(TASKS) {
            return match table.first_of(&["kind", "work", "period", "offset"]) {
                Some(other) => Err(other.error("does not go with tasks: leave one of them out")),
                None => read_tasks(&tasks),
            };
        }
        let kind_field = table.required("kind")?;
        let kind = kind_field.string()?;
        let unknown = || {
            let kinds = Self::kinds().collect::<Vec<_>>().join(", ");
            kind_field.error(format!("\"{kind}\" is no workload: write one of {kinds}, or give tasks"))
        };
        let usual = Self::of_kind(kind, schedule).ok_or_else(unknown)?;
        let Some((work_ns, period_ns)) = usual.figures() else {
            return match table.first_of(&["work", "period", "offset"]) {
                Some(other) => Err(other.error(format!("does not go with kind \"{kind}\": leave it out"))),
                None => Ok(usual),
            };
        };
        let period_ns = period(&table)?.unwrap_or(period_ns);
        let work_ns = work(&table, "work", period_ns)?.unwrap_or(work_ns.min(period_ns));
        let offset_ns = table.get("offset").map(|field| field.duration()).transpose()?;
        match table.get("offset") {
            Some(field) if !matches!(usual, Self::Tasks(_)) => {
                Err(field.error(format!("does not go with kind \"{kind}\": leave it out")))
            }
            _ => Ok(Self::with(kind, work_ns, period_ns, offset_ns, schedule)),
        }
    }

    /// Work and period, of those kinds that have them.
    fn figures(&self) -> Option<(u64, u64)> {
        match self {
            Self::Busy => None,
            Self::Tasks(tasks) => tasks.first().map(|task| (task.wcet_ns, task.period_ns)),
            Self::Dodger { work_ns, period_ns } | Self::Bursty { work_ns, period_ns } => {
                Some((*work_ns, *period_ns))
            }
        }
    }
}

fn read_tasks(field: &Field<'_>) -> Result<Workload, Error> {
    let elements =
        field.array("a list of tables such as { wcet = \"1ms\", period = \"10ms\", priority = 1 }")?;
    if elements.is_empty() || elements.len() > MAX_TASKS {
        return Err(field.error(format!("has {} tasks: write 1 to {MAX_TASKS}", elements.len())));
    }
    let tasks = elements.iter().enumerate().map(|(index, element)| {
        let task = field.element(element, format!("{}[{index}]", field.key())).table(&schema::TASK)?;
        task.required("wcet")?;
        task.required("period")?;
        let period_ns = period(&task)?.unwrap_or_default();
        let deadline_ns = work(&task, "deadline", period_ns)?.unwrap_or(period_ns);
        Ok(Task {
            wcet_ns: work(&task, "wcet", deadline_ns)?.unwrap_or_default(),
            period_ns,
            deadline_ns,
            priority: task.required("priority")?.integer(0..=63)?,
            offset_ns: task.get("offset").map(|field| field.duration()).transpose()?,
            sporadic: false,
        })
    });
    tasks.collect::<Result<_, _>>().map(Workload::Tasks)
}

fn period(table: &Fields<'_>) -> Result<Option<u64>, Error> {
    duration(table, "period", MAX_PERIOD_NS, "is longer than 10s: shorten it")
}

fn work(table: &Fields<'_>, key: &str, limit: u64) -> Result<Option<u64>, Error> {
    duration(table, key, limit, "is longer than the period or deadline that it has to fit into: shorten it")
}

fn duration(table: &Fields<'_>, key: &str, limit: u64, too_long: &str) -> Result<Option<u64>, Error> {
    let Some(field) = table.get(key) else { return Ok(None) };
    match field.duration()? {
        0 => Err(field.error("is no time: lengthen it")),
        ns if ns > limit => Err(field.error(too_long)),
        ns => Ok(Some(ns)),
    }
}
