//! The documentation and the machine files of the project hold what the program says.

use mobivmm_machines::{Machine, Schedule, Task, Workload, explain};
use std::path::Path;

fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_documentation_contains_the_schema_as_it_is_printed() {
    let path = project().join("docs/machine-file.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (_, rest) = document.split_once("```text\n").unwrap();
    let (schema, _) = rest.split_once("```").unwrap();
    assert_eq!(schema, explain(), "copy the output of `cargo xtask machine explain` into the document");
}

#[test]
fn the_examples_of_the_documentation_are_accepted() {
    for page in ["docs/machine-file.md", "docs/simulator.md"] {
        let path = project().join(page);
        let document = std::fs::read_to_string(&path).unwrap();
        let examples: Vec<_> =
            document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!examples.is_empty());
        for example in examples {
            Machine::parse(&path, example).unwrap();
        }
    }
}

#[test]
fn the_machine_files_of_the_project_are_accepted() {
    let load = |name: &str| Machine::load(&project().join("machines").join(name)).unwrap();
    let phone = load("phone.toml");
    let names: Vec<_> =
        phone.vms.iter().map(|vm| (vm.name.as_str(), vm.vcpus, vm.memory.size >> 20)).collect();
    assert_eq!(names, [("linux", 2, 512), ("control", 1, 16)]);
    let reservation =
        Schedule::Reservation { budget_ns: 250_000, period_ns: 1_000_000, deadline_ns: 1_000_000 };
    assert_eq!(phone.vms[1].schedule, reservation);
    let artefacts: Vec<_> = phone.artefacts().collect();
    let linux = [("linux-guest", "Image"), ("linux-guest", "initramfs.cpio.gz")];
    assert_eq!(artefacts, [&linux[..], &[("rtos-guest", "control-loop")]].concat());

    let two = load("two-linux.toml");
    assert_eq!(two.vms.iter().map(|vm| vm.vcpus).collect::<Vec<_>>(), [4, 4]);
    assert_eq!(load("rtos.toml").vms.len(), 1);

    let overcommit = load("overcommit.toml");
    assert_eq!(overcommit.vcpus().count(), 14);
    assert_eq!(overcommit.vms[0].workload, Workload::Busy);
    let task = Task {
        wcet_ns: 400_000,
        period_ns: 5_000_000,
        deadline_ns: 2_000_000,
        priority: 0,
        offset_ns: None,
        sporadic: false,
    };
    assert_eq!(overcommit.vms[4].workload, Workload::Tasks(vec![task]));
    // Who says nothing does all that it is promised.
    assert_eq!(phone.vms[0].workload, Workload::Busy);
    assert_eq!(Workload::of_kind("periodic", &reservation), Some(phone.vms[1].workload.clone()));
}
