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
    /// The type, for people.
    kind: &'static str,
    /// What holds if it is not given; none: it must be given.
    default: Option<&'static str>,
    text: &'static str,
}

const fn required(name: &'static str, kind: &'static str, text: &'static str) -> Key {
    Key {
        name,
        kind,
        default: None,
        text,
    }
}

const fn optional(name: &'static str, kind: &'static str, default: &'static str, text: &'static str) -> Key {
    Key {
        name,
        kind,
        default: Some(default),
        text,
    }
}

pub(crate) const ROOT: Section = Section {
    header: "",
    text: "",
    keys: &[
        required("machine", "table", "the machine"),
        required("vm", "array of tables", "its virtual machines"),
    ],
};

/// Keys that a later version is going to know, and what to say to somebody who uses one already.
pub(crate) const LATER: [(&str, &str); 1] = [(
    "vmn",
    "this version does not know virtual machine networks: remove the [[vmn]] tables",
)];

pub(crate) const MACHINE: Section = Section {
    header: "[machine]",
    text: "The machine as a whole. Required, once.",
    keys: &[required(
        "name",
        "string",
        "shown to people: 1 to 31 of a-z, 0-9 and -",
    )],
};

pub(crate) const VM: Section = Section {
    header: "[[vm]]",
    text: "A virtual machine: 1 to 16 of them.",
    keys: &[
        required(
            "name",
            "string",
            "1 to 31 of a-z, 0-9 and -; unique; not \"mobivmm\"",
        ),
        required(
            "kernel",
            "string or table",
            "arm64 Image (also gzipped) or AArch64 ELF: a path relative to this file, or a built-in artefact \
             \"crate:file\"; a table for a raw image",
        ),
        optional(
            "initrd",
            "string",
            "none",
            "initial RAM disk: a path or an artefact",
        ),
        optional("cmdline", "string", "\"\"", "boot arguments, at most 2047 bytes"),
        optional("vcpus", "integer", "1", "1 to 8 (GICv2 has eight CPU interfaces)"),
        required(
            "memory",
            "size or table",
            "RAM at 0x4000_0000: a multiple of \"2MiB\"",
        ),
        optional(
            "schedule",
            "table",
            "{ weight = 256 }",
            "how its vCPUs get CPU time",
        ),
    ],
};

pub(crate) const KERNEL: Section = Section {
    header: "kernel = { ... }",
    text: "A raw image: bytes without a header.",
    keys: &[
        required("raw", "string", "a path or an artefact"),
        required(
            "load",
            "integer",
            "guest address of the first byte, a multiple of 8",
        ),
        required(
            "entry",
            "integer",
            "guest address of the first instruction, within the image",
        ),
    ],
};

pub(crate) const MEMORY: Section = Section {
    header: "memory = { ... }",
    text: "RAM that is not simply a size.",
    keys: &[
        required("size", "size", "a multiple of \"2MiB\""),
        optional(
            "base",
            "integer",
            "0x4000_0000",
            "guest address of its first byte: from 0x4000_0000, 2 MiB aligned",
        ),
        optional(
            "identity",
            "boolean",
            "false",
            "guest addresses are physical addresses (for DMA without an SMMU); needs base",
        ),
    ],
};

pub(crate) const SCHEDULE: Section = Section {
    header: "schedule = { ... }",
    text: "One of three forms: a share (weight, cap), a reservation (budget, period, deadline) or exclusive CPUs. \
           affinity goes with any.",
    keys: &[
        optional(
            "weight",
            "integer",
            "256",
            "share of what is left, relative to other VMs' weights: 1 to 65535",
        ),
        optional(
            "cap",
            "integer",
            "0",
            "upper limit in percent of one CPU, at most 100 a vCPU; 0 = none",
        ),
        optional(
            "budget",
            "duration",
            "no reservation",
            "CPU time of each vCPU in every period, from \"1us\"",
        ),
        optional(
            "period",
            "duration",
            "no reservation",
            "needed with budget; at most \"10s\"",
        ),
        optional(
            "deadline",
            "duration",
            "the period",
            "budget is given by then: from budget to period",
        ),
        optional(
            "exclusive",
            "boolean",
            "a share",
            "true: each vCPU has a CPU of its own",
        ),
        optional(
            "affinity",
            "\"all\" or array",
            "\"all\"",
            "the CPUs that the vCPUs may run on, such as [0, 2]",
        ),
    ],
};

const NOTES: &str = "\
size      a whole number and a unit: KiB, MiB or GiB, such as \"512MiB\"
duration  a whole number and a unit: ns, us, ms or s, such as \"250us\"
";

/// The schema as text: what `machine explain` prints.
pub fn explain() -> String {
    let mut out = String::new();
    for section in [MACHINE, VM, KERNEL, MEMORY, SCHEDULE] {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", section.header);
        wrap(&mut out, "  ", "  ", section.text);
        for key in section.keys {
            let need = key
                .default
                .map_or("required".into(), |default| format!("default {default}"));
            let first = format!("    {:<10}{}; {need}: ", key.name, key.kind);
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
