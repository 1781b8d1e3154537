//! The machine file's schema, in one place: the reader refuses what is not here, `machine explain` prints it, and
//! `docs/machine-file.md` contains that print.

use std::fmt::Write as _;

/// A table of the machine file.
pub(crate) struct Section {
    /// As it is written in the file.
    header: &'static str,
    text: &'static str,
    pub(crate) keys: &'static [Key],
}

/// A key of a table.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// The type, and whether it must be given or what holds if it is not, for people.
    kind: &'static str,
    text: &'static str,
}

const fn key(name: &'static str, kind: &'static str, text: &'static str) -> Key {
    Key { name, kind, text }
}

/// Keys that a later version is going to know, and what to say to somebody who uses one already.
pub(crate) const LATER: [(&str, &str); 1] =
    [("vmn", "this version does not know virtual machine networks: remove the [[vmn]] tables")];

pub(crate) const ROOT: Section = Section {
    header: "",
    text: "",
    keys: &[
        key("machine", "table, required", ""),
        key("vm", "array of tables, required", ""),
        key("channel", "array of tables, optional", ""),
    ],
};

pub(crate) const MACHINE: Section = Section {
    header: "[machine]",
    text: "The machine as a whole. Required, once.",
    keys: &[key("name", "string, required", "Shown to people: 1 to 31 of a-z, 0-9 and -.")],
};

pub(crate) const VM: Section = Section {
    header: "[[vm]]",
    text: "A virtual machine: 1 to 16 of them.",
    keys: &[
        key("name", "string, required", "1 to 31 of a-z, 0-9 and -; unique; not \"mobivmm\"."),
        key(
            "kernel",
            "string or table, required",
            "An arm64 Image (may be gzipped) or an AArch64 ELF file: a path relative to this file, or a built-in \
             artefact \"crate:file\". A table for a raw image.",
        ),
        key("initrd", "string, optional", "The initial RAM disk: a path or an artefact."),
        key("cmdline", "string, default \"\"", "The boot arguments, at most 2047 bytes."),
        key("vcpus", "integer, default 1", "1 to 8 (GICv2 has eight CPU interfaces)."),
        key(
            "memory",
            "size or table, required",
            "RAM at 0x4000_0000, a multiple of \"2MiB\". A table for more.",
        ),
        key("schedule", "table, default { weight = 256 }", "How its vCPUs get CPU time."),
        key("workload", "table, optional", "What its vCPUs do in the simulator; nothing else reads it."),
    ],
};

pub(crate) const KERNEL: Section = Section {
    header: "kernel = { ... }",
    text: "A raw image: bytes without a header.",
    keys: &[
        key("raw", "string, required", "A path or an artefact."),
        key("load", "integer, required", "The guest address of its first byte, a multiple of 8."),
        key("entry", "integer, required", "The guest address of its first instruction, a multiple of 4."),
    ],
};

pub(crate) const MEMORY: Section = Section {
    header: "memory = { ... }",
    text: "RAM that is not simply a size.",
    keys: &[
        key("size", "size, required", "A multiple of \"2MiB\"."),
        key(
            "base",
            "integer, default 0x4000_0000",
            "Its guest address, at least the default; 2 MiB aligned.",
        ),
        key(
            "identity",
            "boolean, default false",
            "Guest addresses are physical addresses, for DMA without an SMMU. Needs base.",
        ),
    ],
};

pub(crate) const SCHEDULE: Section = Section {
    header: "schedule = { ... }",
    text: "One of three forms: a share (weight, cap), a reservation (budget, period, deadline, adjustable), or exclusive. \
           affinity goes with any.",
    keys: &[
        key("weight", "integer, default 256", "The VM's share relative to others' weights: 1 to 65535."),
        key(
            "cap",
            "integer, default 0",
            "An upper limit in percent of one CPU, at most 100 a vCPU; 0 = none.",
        ),
        key("budget", "duration, optional", "CPU time for each vCPU in every period, at least \"1us\"."),
        key("period", "duration, with budget", "At most \"10s\"."),
        key("deadline", "duration, default period", "Since the period's start: the budget is had by then."),
        key(
            "adjustable",
            "integer, default 0",
            "What a vCPU may ask for at run time at the most, in percent of one CPU: up to 95; 0: it may not ask.",
        ),
        key("exclusive", "boolean, optional", "true: each vCPU has a CPU of its own."),
        key(
            "affinity",
            "\"all\" or array, default \"all\"",
            "The CPUs that the vCPUs may run on, such as [0, 2].",
        ),
    ],
};

pub(crate) const WORKLOAD: Section = Section {
    header: "workload = { ... }",
    text: "For `cargo xtask sim`: a kind, or the tasks of an RTOS. Without it a reservation does periodic work of four \
           fifths of its budget, and everybody else is busy.",
    keys: &[
        key(
            "kind",
            "string",
            "busy (always runs), periodic, sporadic (up to twice the period apart), sleeper (mostly sleeps), flooder \
             (wakes up all the time), dodger (runs from tick to tick and sleeps across each) or bursty (bursts of \
             interrupts).",
        ),
        key("work", "duration, optional", "Of each job, interrupt or tick; not with busy."),
        key(
            "period",
            "duration, optional",
            "From job to job, burst to burst or tick to tick; not with busy.",
        ),
        key("offset", "duration, optional", "Of the first job; without it the seed decides."),
        key("tasks", "array of tables, optional", "Instead of a kind: 1 to 64 tasks by fixed priority."),
    ],
};

pub(crate) const TASK: Section = Section {
    header: "tasks = [{ ... }, ...]",
    text: "A task of an RTOS. They are also checked against what the reservation is sure to supply.",
    keys: &[
        key("wcet", "duration, required", "The work of a job at most."),
        key("period", "duration, required", "From release to release, at most \"10s\"."),
        key("deadline", "duration, default period", "From a job's release, at most the period."),
        key("priority", "integer, required", "0 to 63; a larger number goes first."),
        key("offset", "duration, optional", "Of the first job; without it the seed decides."),
    ],
};

pub(crate) const CHANNEL: Section = Section {
    header: "[[channel]]",
    text: "A page that two VMs share, and a bell for each of them to ring at the other: at most 8 a VM.",
    keys: &[
        key("name", "string, required", "As a VM's; unique among channels. The VMs find it by this name."),
        key("between", "array, required", "The names of the two VMs, such as [\"a\", \"b\"]."),
    ],
};

const NOTES: &str = "\
size      a whole number and a unit: KiB, MiB or GiB, such as \"512MiB\"
duration  a whole number and a unit: ns, us, ms or s, such as \"250us\"
";

/// The schema as text: what `machine explain` prints.
pub fn explain() -> String {
    let mut out = String::new();
    for section in [MACHINE, VM, KERNEL, MEMORY, SCHEDULE, WORKLOAD, TASK, CHANNEL] {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", section.header);
        wrap(&mut out, "  ", "  ", section.text);
        for key in section.keys {
            let first = format!("    {:<11}({}) ", key.name, key.kind);
            wrap(&mut out, &first, "              ", key.text);
        }
        out.push('\n');
    }
    out.push_str(NOTES);
    out
}

/// Appends `first` and the words of `text`, in lines of at most 100 columns; all but the first begin with `indent`.
fn wrap(out: &mut String, first: &str, indent: &str, text: &str) {
    out.push_str(first);
    let mut column = first.len();
    for (index, word) in text.split_whitespace().enumerate() {
        if index > 0 && column + 1 + word.len() > 100 {
            out.push('\n');
            out.push_str(indent);
            column = indent.len();
        } else if index > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out.push('\n');
}
