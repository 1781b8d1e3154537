//! Against a stand-in for QEMU: a shell script that speaks the protocol on its standard input and output.

use std::path::Path;

use super::*;
use crate::config::{Board, Gic, Program};
use crate::outcome::Failure;

fn run<'o>(script: &str, icount: bool) -> Run<'o> {
    let config = Config {
        program: Program { path: "/bin/sh".into(), args: vec!["-c".into(), script.into()] },
        board: Board::Virt { gic: Gic::V3, cpu: "cortex-a72".into(), cpus: 1, memory_mib: 64 },
        icount,
        image: "Image".into(),
        bundle: None,
        bootargs: Vec::new(),
        extra: Vec::new(),
    };
    Run::new(config, ["linux", "control"]).timeout(Duration::from_secs(60))
}

/// Keeps the lines as a runner prints them.
#[derive(Default)]
struct Lines(Vec<String>);

impl Observer for &mut Lines {
    fn line(&mut self, vm: &str, line: &str) {
        self.0.push(format!("{vm} | {line}"));
    }
}

fn until(vm: &str, regex: &str) -> Step {
    Step::until(vm, regex).unwrap()
}

fn failure(outcome: Outcome) -> Failure {
    outcome.success().unwrap_err()
}

#[test]
fn a_script_waits_types_and_ends_the_run() {
    let mut lines = Lines::default();
    let fake = r"
        echo MobiVMM; printf '\020\101boot\r\n~ # \020\102tick\n'
        read -r typed
        printf '\020\101%s\r\n2\r\n~ # ' ${typed#??}
        exec sleep 1000";
    let steps = [
        until("linux", "~ #"),
        Step::send("linux", "nproc\n"),
        until("linux", "^2$"),
        until("control", "tick"),
    ];
    let outcome = run(fake, false).script(steps).observer(&mut lines).execute().unwrap().success().unwrap();
    assert_eq!(outcome.ending, Ending::Done);
    assert_eq!(outcome.console("linux"), "boot\n~ # nproc\n2\n~ # ");
    assert_eq!(
        lines.0,
        [
            "mobivmm | MobiVMM",
            "linux | boot",
            "control | tick",
            "linux | ~ # nproc",
            "linux | 2",
            "linux | ~ # "
        ]
    );
}

#[test]
fn input_beyond_the_window_waits_for_the_guest() {
    // 2 bytes select the channel. Nothing more than the window may come before the guest's credit.
    let fake = r"
        printf '\020\101ready\n'
        head -c 258 >/dev/null
        printf '\020\101window full\n\020\201\377'
        head -c 44 | wc -c
        printf '\020\201\055'
        exec sleep 1000";
    let steps = [until("linux", "ready"), Step::send("linux", "x".repeat(300))];
    let outcome = run(fake, false).script(steps).execute().unwrap().success().unwrap();
    assert!(outcome.console("linux").contains("window full\n44\n"), "{outcome:?}");
}

#[test]
fn a_vm_that_does_not_read_holds_up_no_other() {
    let fake = r"
        printf '\020\101ready\n'
        head -c 258 >/dev/null
        read -r typed; printf '\020\102%s\n' ${typed#??}
        exec sleep 1000";
    let steps = [
        until("linux", "ready"),
        Step::send("linux", "x".repeat(999)),
        Step::send("control", "hi\n"),
        until("control", "hi"),
    ];
    run(fake, false).script(steps).execute().unwrap().success().unwrap();
}

#[test]
fn nothing_is_typed_before_el2_frames_its_output() {
    let fake = r"
        echo MobiVMM; sleep 0.2
        timeout 0.2 head -c 1 | wc -c
        printf '\020\101'; head -c 4 | wc -c
        exec sleep 1000";
    let steps = [Step::send("linux", "ab"), until("linux", "4")];
    let outcome = run(fake, false).script(steps).execute().unwrap().success().unwrap();
    assert_eq!(outcome.console("mobivmm"), "MobiVMM\n0\n");
}

#[test]
fn lockstep_answers_every_sync_and_leaves_el2_waiting_at_the_last() {
    let fake = r#"
        case "$*" in *console=lockstep*) ;; *) exit 1 ;; esac
        reply() { head -c 2 | od -An -tu2 | tr -d ' '; }
        printf '\020\101~ # \020\300'; len=$(reply)
        head -c 2 >/dev/null; typed=$(head -c $((len - 2)))
        printf '%s\n\020\300' $typed; printf 'length %s\n' $(reply)
        printf '2\nthe next sync comes behind this\n\020\300'
        printf 'never reached\n' $(reply)
        exec sleep 1000"#;
    let steps = || [until("linux", "~ #"), Step::send("linux", "nproc\n"), until("linux", "^2$")];
    let first = run(fake, true).script(steps()).execute().unwrap().success().unwrap();
    assert_eq!(first.console("linux"), "~ # nproc\nlength 0\n2\nthe next sync comes behind this\n");
    for _ in 0..5 {
        assert_eq!(run(fake, true).script(steps()).execute().unwrap().consoles, first.consoles);
    }
}

#[test]
fn qemu_is_gone_when_the_run_is_over() {
    let outcome =
        run("echo pid $$; exec sleep 1000", false).script([until("mobivmm", r"pid \d+$")]).execute().unwrap();
    let pid = outcome.console("mobivmm").trim().replace("pid ", "");
    assert!(!Path::new("/proc").join(pid).exists());
}

#[test]
fn the_time_limit_ends_a_silent_and_a_flooding_machine() {
    for fake in ["exec sleep 1000", "exec yes"] {
        let limit = Duration::from_millis(300);
        let outcome = run(fake, false).script([until("linux", "~ #")]).timeout(limit).execute().unwrap();
        assert_eq!(outcome.ending, Ending::TimedOut(limit));
        let text = failure(outcome).to_string();
        assert!(text.ends_with("timed out after 0.3 s, still waiting for linux to match /~ #/"), "{text}");
    }
}

#[test]
fn an_early_end_fails_with_the_last_lines_and_qemus_own_words() {
    let fake = "echo hello; echo 'no such device' >&2; exit 3";
    let outcome = run(fake, false).script([until("linux", "~ #")]).execute().unwrap();
    assert_eq!(
        failure(outcome).to_string(),
        "--- the last lines of mobivmm:\nmobivmm | hello\n--- QEMU:\nno such device\n\
         QEMU ended with exit status: 3, still waiting for linux to match /~ #/"
    );
}

#[test]
fn what_was_printed_last_still_counts() {
    run("printf 'all off'", false)
        .script([until("mobivmm", "all off")])
        .execute()
        .unwrap()
        .success()
        .unwrap();
}

#[test]
fn without_a_script_the_status_decides() {
    let good = run("exit 0", false).execute().unwrap();
    assert!(good.success().is_ok());
    let bad = run("exit 2", false).execute().unwrap();
    assert_eq!(failure(bad).to_string(), "QEMU ended with exit status: 2");
}

#[test]
fn a_panic_of_el2_fails_the_run_with_its_backtrace() {
    let fake = r"printf '\020\100PANIC at the disco\n  #0 0x40\n'; exit 0";
    let outcome = run(fake, false).script([until("mobivmm", "PANIC")]).execute().unwrap();
    assert!(outcome.console("mobivmm").contains("#0 0x40"), "{outcome:?}");
    assert!(failure(outcome).to_string().ends_with("EL2 panicked: PANIC at the disco"));

    // An EL2 that cannot even end QEMU does not hold up the run.
    let start = Instant::now();
    let outcome = run("echo PANIC; exec sleep 1000", false).execute().unwrap();
    assert_eq!(outcome.ending, Ending::Panicked("PANIC".into()));
    assert!(start.elapsed() < Duration::from_secs(30));
    // A guest may print what it likes.
    assert!(run(r"printf '\020\101PANIC\n'", false).execute().unwrap().success().is_ok());
}

#[test]
fn a_qemu_that_cannot_be_started_is_named() {
    let mut run = run("", false);
    run.config.program.path = "/no/such/qemu".into();
    assert_eq!(run.execute().unwrap_err().to_string(), "cannot start /no/such/qemu");
}

#[test]
fn output_of_a_vm_that_there_is_not_is_dropped() {
    let outcome = run(r"printf '\020\110x\020\210\001\020\100y'", false).execute().unwrap();
    assert_eq!(outcome.consoles.iter().map(|(_, text)| text.as_str()).collect::<String>(), "y");
}
