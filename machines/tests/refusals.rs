//! Every way in which a machine file can be wrong is refused with its line, its key and what to do.

mod common;

use mobivmm_machines::{Error, Machine};
use sched::CpuSet;
use sched::admission::Overhead;

/// Loads and compiles a machine file beside the made-up guests.
fn refusal(text: &str) -> Error {
    let dir = common::guests();
    let file = common::machine_file(dir.path(), text);
    let no_artefact = |_: &str, file: &str| anyhow::bail!("{file} is not built");
    let error = Machine::load(&file).and_then(|machine| machine.compile(&no_artefact).map(drop)).unwrap_err();
    assert_eq!(error.file, file);
    error
}

/// Asserts that `text` is refused at `line` and `key` with a reason that contains `reason`.
#[track_caller]
fn refused(text: &str, line: usize, key: &str, reason: &str) {
    let error = refusal(text);
    assert_eq!((error.line, error.key.as_str()), (line, key), "{error}");
    assert!(error.reason.contains(reason), "{error}");
}

/// A machine of one VM with one more line, line 7: `extra`.
fn with(extra: &str) -> String {
    format!(
        "[machine]\nname = \"m\"\n[[vm]]\nname = \"a\"\nkernel = \"Image\"\nmemory = \"16MiB\"\n{extra}\n"
    )
}

/// The same with line 6, the memory, replaced.
fn with_memory(memory: &str) -> String {
    with("").replace("\"16MiB\"", memory)
}

/// The same with line 5, the kernel, replaced.
fn with_kernel(kernel: &str) -> String {
    with("").replace("\"Image\"", kernel)
}

#[test]
fn the_message_has_the_form_that_editors_parse() {
    let error = refusal(&with("vcpu = 2"));
    let expected = format!("{}:7: vm[a].vcpu: unknown key: did you mean `vcpus`?", error.file.display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_unchanged_base_of_these_tests_is_accepted() {
    let dir = common::guests();
    let machine = Machine::load(&common::machine_file(dir.path(), &with(""))).unwrap();
    machine.compile(&|_, _| unreachable!("no artefacts")).unwrap();
}

#[test]
fn a_file_that_is_not_there_or_is_not_toml() {
    let error = Machine::load("no/such.toml".as_ref()).unwrap_err();
    assert!(error.to_string().starts_with("no/such.toml: cannot be read: "), "{error}");
    refused("[machine]\nname = \"m\n", 2, "", "invalid basic string");
    refused("[machine]\nname = \"m\"\nname = \"m\"\n", 3, "", "duplicate key");
}

#[test]
fn unknown_keys() {
    refused(&with("weight = 3"), 7, "vm[a].weight", "use one of name, kernel, initrd");
    refused(&with("schedule = { wieght = 3 }"), 7, "vm[a].schedule.wieght", "did you mean `weight`?");
    refused(&with("[machines]"), 7, "machines", "did you mean `machine`?");
    refused(&with("[[vmn]]\nname = \"lan\""), 7, "vmn", "does not know virtual machine networks");
    refused(&with_memory("{ size = \"16MiB\", bas = 1 }"), 6, "vm[a].memory.bas", "did you mean `base`?");
    let kernel = "{ raw = \"blob.bin\", load = 0x4008_0000, entri = 0 }";
    refused(&with_kernel(kernel), 5, "vm[a].kernel.entri", "did you mean `entry`?");
}

#[test]
fn missing_keys() {
    refused("[[vm]]\n", 1, "machine", "is missing");
    refused("[machine]\nname = \"m\"\n", 1, "vm", "is missing");
    refused("vm = []\n[machine]\nname = \"m\"\n", 1, "vm", "no VM");
    refused("[machine]\n", 1, "machine.name", "is missing");
    refused("\n[machine]\n[[vm]]\n", 2, "machine.name", "is missing");
    refused("[machine]\nname = \"m\"\n[[vm]]\n", 3, "vm[0].name", "is missing");
    refused("[machine]\nname = \"m\"\n[[vm]]\nname = \"a\"\n", 3, "vm[a].memory", "is missing");
}

#[test]
fn wrong_types() {
    refused(&with("vcpus = \"2\""), 7, "vm[a].vcpus", "is of type string: write a whole number");
    refused(&with("cmdline = 3"), 7, "vm[a].cmdline", "is of type integer: write a string");
    refused(&with("schedule = 3"), 7, "vm[a].schedule", "write a table");
    refused(&with("schedule = { exclusive = 1 }"), 7, "vm[a].schedule.exclusive", "write true or false");
    refused(&with_memory("16"), 6, "vm[a].memory", "write a size such as");
    refused("[machine]\nname = \"m\"\n[vm]\n", 3, "vm", "write [[vm]] for each VM");
}

#[test]
fn names() {
    refused(&with("[[vm]]\nname = \"a\""), 8, "vm[a].name", "an earlier VM has this name");
    refused(&with("[[vm]]\nname = \"A b\""), 8, "vm[1].name", "write 1 to 31 of a-z");
    refused(&with("[[vm]]\nname = \"mobivmm\""), 8, "vm[mobivmm].name", "choose another name");
    let more = |n| format!("[[vm]]\nname = \"b{n}\"\nkernel = \"Image\"\nmemory = \"16MiB\"\n");
    let many = with("") + &(0..16).map(more).collect::<String>();
    refused(&many, 8 + 15 * 4, "vm[b15]", "more than 16 VMs");
}

#[test]
fn missing_files_and_artefacts() {
    refused(&with_kernel("\"nowhere\""), 5, "vm[a].kernel", "no such file");
    refused(&with("initrd = \"nowhere\""), 7, "vm[a].initrd", "no such file");
    refused(
        &with_kernel("\"some-guest:Image\""),
        5,
        "vm[a].kernel",
        "some-guest:Image is not there: Image is not built",
    );
}

#[test]
fn unusable_images() {
    refused(&with_kernel("\"initrd\""), 5, "vm[a].kernel", "is neither an arm64 Image");
    let outside = "{ raw = \"blob.bin\", load = 0x8000_0000, entry = 0x8000_0000 }";
    refused(&with_kernel(outside), 5, "vm[a].kernel.raw", "outside the VM's RAM");
    let beyond = "{ raw = \"blob.bin\", load = 0x4000_0000, entry = 0x4000_0064 }";
    refused(&with_kernel(beyond), 5, "vm[a].kernel.raw", "is no instruction of the image");
    let before = "{ raw = \"blob.bin\", load = 0x4000_0008, entry = 0x4000_0000 }";
    refused(&with_kernel(before), 5, "vm[a].kernel.entry", "write a number from 0x40000008");
    let odd = "{ raw = \"blob.bin\", load = 0x4000_0004, entry = 0x4000_0004 }";
    refused(&with_kernel(odd), 5, "vm[a].kernel.load", "is not a multiple of 0x8");
}

#[test]
fn memory() {
    refused(&with_memory("\"16MB\""), 6, "vm[a].memory", "write a whole number and a unit");
    refused(&with_memory("\"3MiB\""), 6, "vm[a].memory", "round it up");
    refused(&with_memory("\"0MiB\""), 6, "vm[a].memory", "round it up");
    refused(&with_memory("\"1024GiB\""), 6, "vm[a].memory", "40-bit");
    refused(&with_memory("{ size = \"16MiB\", base = 0x1000 }"), 6, "vm[a].memory.base", "from 0x40000000");
    refused(
        &with_memory("{ size = \"16MiB\", base = 0x4000_1000 }"),
        6,
        "vm[a].memory.base",
        "write 0x40000000",
    );
    refused(&with_memory("{ size = \"16MiB\", base = -1 }"), 6, "vm[a].memory.base", "out of range");
    refused(
        &with_memory("{ size = \"16MiB\", identity = true }"),
        6,
        "vm[a].memory.identity",
        "give it as `base`",
    );
}

#[test]
fn too_little_memory_for_the_images() {
    let text = with("initrd = \"initrd\"").replace("16MiB", "2MiB");
    let dir = common::guests();
    std::fs::write(dir.path().join("Image"), common::arm64_image(0x1_0000, (2 << 20) - 0x1_0000)).unwrap();
    let machine = Machine::load(&common::machine_file(dir.path(), &text)).unwrap();
    let error = machine.compile(&|_, _| unreachable!("no artefacts")).unwrap_err();
    assert_eq!((error.line, error.key.as_str()), (6, "vm[a].memory"), "{error}");
    assert!(error.reason.contains("2MiB are too little") && error.reason.contains("need 4MiB"), "{error}");
}

#[test]
fn identity_memory_of_two_vms_must_not_overlap() {
    let second = |base| {
        let vm = "[[vm]]\nname = \"b\"\nkernel = \"Image\"\n";
        format!("{vm}memory = {{ size = \"16MiB\", base = {base}, identity = true }}")
    };
    let first = with_memory("{ size = \"16MiB\", base = 0x8000_0000, identity = true }");
    refused(&(first.clone() + &second("0x80e0_0000")), 11, "vm[b].memory", "overlaps the memory of VM \"a\"");
    let dir = common::guests();
    let apart = first + &second("0x8100_0000");
    Machine::load(&common::machine_file(dir.path(), &apart)).unwrap();
}

#[test]
fn vcpus() {
    for bad in ["0", "9", "-1", "0x100000000"] {
        refused(&with(&format!("vcpus = {bad}")), 7, "vm[a].vcpus", "write a number from 1 to 8");
    }
}

#[test]
fn cmdline() {
    refused(&with(&format!("cmdline = \"{}\"", "x".repeat(2048))), 7, "vm[a].cmdline", "shorten it to 2047");
    refused(&with("cmdline = \"a\\nb\""), 7, "vm[a].cmdline", "control character");
}

#[test]
fn schedules() {
    let refused = |schedule: &str, key: &str, reason: &str| {
        let key = format!("vm[a].schedule{key}");
        refused(&with(&format!("schedule = {{ {schedule} }}")), 7, &key, reason);
    };
    refused("budget = \"2ms\", period = \"1ms\"", ".budget", "is longer than period");
    refused("budget = \"1us\", period = \"1ms\", deadline = \"2ms\"", ".deadline", "is longer than period");
    refused("budget = \"9us\", period = \"1ms\", deadline = \"8us\"", ".deadline", "is shorter than budget");
    refused("budget = \"10ns\", period = \"1ms\"", ".budget", "is shorter than 1us");
    refused("budget = \"1ms\", period = \"11s\"", ".period", "is longer than 10s");
    refused("budget = \"1ms\"", ".period", "is missing");
    refused("deadline = \"1ms\"", ".budget", "is missing");
    refused("budget = 250, period = \"1ms\"", ".budget", "write a duration such as");
    refused("budget = \"250\", period = \"1ms\"", ".budget", "write a whole number and a unit");
    refused(
        "weight = 1, budget = \"1ms\", period = \"2ms\"",
        ".budget",
        "does not go with vm[a].schedule.weight",
    );
    refused("exclusive = true, cap = 50", ".exclusive", "does not go with vm[a].schedule.cap");
    refused("exclusive = true, period = \"1ms\"", ".exclusive", "does not go with vm[a].schedule.period");
    refused("exclusive = false", ".exclusive", "leave it out");
    refused("weight = 0", ".weight", "write a number from 1 to 65535");
    refused("cap = 101", ".cap", "write a number from 0 to 100");
    refused("affinity = \"some\"", ".affinity", "is no set of CPUs");
    refused("affinity = []", ".affinity", "allows no CPU");
    refused("affinity = [64]", ".affinity", "write a number from 0 to 63");
    refused("affinity = 1", ".affinity", "write \"all\" or a list");
    refused_exclusive();
}

fn refused_exclusive() {
    let text = with("vcpus = 2\nschedule = { exclusive = true, affinity = [1] }");
    refused(&text, 8, "vm[a].schedule", "name more CPUs");
}

#[test]
fn workloads() {
    let refused = |workload: &str, key: &str, reason: &str| {
        let key = format!("vm[a].workload{key}");
        refused(&with(&format!("workload = {{ {workload} }}")), 7, &key, reason);
    };
    refused("", ".kind", "is missing");
    refused("kind = \"lazy\"", ".kind", "is no workload: write one of busy, periodic,");
    refused("kind = \"busy\", work = \"1ms\"", ".work", "does not go with kind \"busy\"");
    refused("kind = \"dodger\", offset = \"1ms\"", ".offset", "does not go with kind \"dodger\"");
    refused("kind = \"periodic\", work = \"2ms\", period = \"1ms\"", ".work", "shorten it");
    refused("kind = \"periodic\", period = \"0ms\"", ".period", "is no time");
    refused("kind = \"periodic\", period = \"11s\"", ".period", "is longer than 10s");
    refused("kind = \"periodic\", wcet = \"1ms\"", ".wcet", "unknown key");
    refused("kind = \"busy\", tasks = []", ".kind", "does not go with tasks");
    refused("tasks = []", ".tasks", "has 0 tasks: write 1 to 64");
    let task = |task: &str, key: &str, reason| refused(&format!("tasks = [{{ {task} }}]"), key, reason);
    task("period = \"1ms\", priority = 1", ".tasks[0].wcet", "is missing");
    task("wcet = \"1ms\", period = \"9ms\"", ".tasks[0].priority", "is missing");
    task("wcet = \"1ms\", period = \"9ms\", priority = 64", ".tasks[0].priority", "from 0 to 63");
    task(
        "wcet = \"5ms\", period = \"9ms\", deadline = \"4ms\", priority = 1",
        ".tasks[0].wcet",
        "shorten it",
    );
    task(
        "wcet = \"1ms\", period = \"9ms\", deadline = \"10ms\", priority = 1",
        ".tasks[0].deadline",
        "shorten it",
    );
}

#[test]
fn promises_that_the_cpus_cannot_keep() {
    let dir = common::guests();
    let admit = |text: &str, cpus| {
        let machine = Machine::load(&common::machine_file(dir.path(), text)).unwrap();
        machine.admit(CpuSet::first(cpus), Overhead { irq_off_max: 1_000, vm_switch: 800 })
    };
    let text = with("schedule = { budget = \"600us\", period = \"1ms\" }\nvcpus = 3");
    let plan = admit(&text, 3).unwrap();
    assert_eq!(
        plan.to_string(),
        "  CPU 0  60.00 % reserved: a.0\n  CPU 1  60.00 % reserved: a.1\n  CPU 2  60.00 % reserved: a.2\n"
    );
    let error = admit(&text, 2).unwrap_err();
    assert_eq!((error.line, error.key.as_str()), (7, "vm[a].schedule"));
    let reason = "vCPU 2 is not admitted: no partition found: 600us in every 1ms (60.00 %) fits nowhere, however the \
                  others are placed; CPU 0 60.00 %, CPU 1 60.00 %, of 95.00 % that can be reserved: ask for less, or \
                  allow other CPUs";
    assert_eq!(error.reason, reason);
    let error = admit(&text, 1).unwrap_err();
    assert!(error.reason.contains("over capacity: CPU 0 is asked for 180.00 % reserved;"), "{error}");

    let share = with("schedule = { affinity = [4] }");
    let error = admit(&share, 4).unwrap_err();
    assert!(error.reason.starts_with("vCPU 0 is not admitted: none of the CPUs"), "{error}");

    let vm = |n: u32| {
        let schedule = format!("schedule = {{ affinity = [0, {n}] }}");
        format!("[[vm]]\nname = \"b{n}\"\nkernel = \"Image\"\nmemory = \"16MiB\"\n{schedule}\n")
    };
    let many = with("") + &(0..4).map(vm).collect::<String>();
    let error = admit(&many, 4).unwrap_err();
    assert_eq!((error.line, error.key.as_str()), (8 + 3 * 5 + 4, "vm[b3].schedule"));
    assert!(error.reason.contains("more than 4 different affinities"), "{error}");
    // On two CPUs some are the same.
    admit(&many, 2).unwrap();
}

#[test]
fn channels() {
    let second = "[[vm]]\nname = \"b\"\nkernel = \"Image\"\nmemory = \"16MiB\"";
    let channel =
        |name: &str, between: &str| format!("\n[[channel]]\nname = \"{name}\"\nbetween = {between}");
    const AB: &str = "[\"a\", \"b\"]";
    // The first channel begins at line 11.
    let machine = |channels: &str| with(&format!("{second}{channels}"));
    refused(&machine(&channel("C", AB)), 12, "channel[0].name", "is not a name");
    refused(&machine(&channel("c", "\"a\"")), 13, "channel[0].between", "the names of two VMs");
    refused(&machine(&channel("c", "[\"a\", \"x\"]")), 13, "channel[0].between", "there is no VM \"x\"");
    for between in ["[]", "[\"a\"]", "[\"a\", \"a\"]", "[\"a\", \"b\", \"a\"]"] {
        refused(&machine(&channel("c", between)), 13, "channel[0].between", "name two different ones");
    }
    refused(&machine("\n[[channel]]\nname = \"c\""), 11, "channel[0].between", "is missing");
    refused(&machine(&channel("c", AB).repeat(2)), 15, "channel[1].name", "an earlier channel has this name");
    let nine: String = (0..9).map(|n| channel(&format!("c{n}"), AB)).collect();
    refused(&machine(&nine), 37, "channel[8].between", "has 8 channels");
}
