//! The kernel core against models that are obviously right.

mod deadlines;
mod flags;
mod inheritance;
mod semaphores;

use super::*;

fn p(level: u8) -> Priority {
    Priority::new(level)
}

/// Lets the kernel switch to the task it wants.
fn settle(kernel: &mut Kernel) -> Priority {
    let context = kernel.running().index();
    assert_eq!(kernel.switch(context, 0), kernel.running().index(), "each task gets its own context back");
    assert!(!kernel.needs_switch());
    kernel.running()
}

/// Makes and starts a task with its level as its context and its stack.
fn start(kernel: &mut Kernel, level: u8) -> Result<(), SpawnError> {
    let stack = (usize::from(level) + 1) << 12;
    kernel.create(p(level), "test", stack..stack + 4096)?;
    kernel.start(p(level), level.into());
    Ok(())
}

/// A kernel with the tasks of these levels, each with its level as its context.
fn kernel(levels: impl IntoIterator<Item = u8>) -> Kernel {
    let mut kernel = Kernel::new();
    // So that the idle task has a context of its own, too.
    kernel.switch(Priority::IDLE.index(), 0);
    for level in levels {
        start(&mut kernel, level).unwrap();
    }
    settle(&mut kernel);
    kernel
}

#[test]
fn the_most_urgent_ready_task_runs_and_idle_when_there_is_none() {
    let mut k = kernel([30, 10, 20]);
    for level in [10, 20, 30] {
        assert_eq!(k.running(), p(level));
        k.block(None);
        settle(&mut k);
    }
    assert_eq!(k.running(), Priority::IDLE);
    assert!(k.wake(p(20)));
    assert!(k.needs_switch());
    assert_eq!(settle(&mut k), p(20));
    assert!(k.wake(p(30)));
    assert!(!k.needs_switch(), "a less urgent task does not preempt");
    assert!(!k.wake(p(30)), "it no longer waits");
}

#[test]
fn all_64_priorities_are_picked_in_order() {
    let mut k = kernel(0..63);
    for level in 0..63 {
        assert_eq!(k.running(), p(level));
        k.exit();
        settle(&mut k);
    }
    assert_eq!(k.running(), Priority::IDLE);
}

#[test]
fn a_priority_and_a_stack_have_one_task_until_that_ends() {
    let mut k = kernel([5]);
    assert_eq!(k.create(p(5), "", 1 << 20..2 << 20), Err(SpawnError::PriorityInUse));
    assert_eq!(k.create(p(6), "", 6 << 12..7 << 12), Err(SpawnError::StackInUse));
    k.exit();
    assert_eq!(settle(&mut k), Priority::IDLE);
    assert!(!k.wake(p(5)));
    assert_eq!(k.create(p(5), "again", 6 << 12..7 << 12), Ok(()));
    assert!(!k.needs_switch(), "created, not started");
    assert_eq!(k.create(p(5), "", 1 << 20..2 << 20), Err(SpawnError::PriorityInUse));
    k.start(p(5), 5);
    assert_eq!(settle(&mut k), p(5));
}

#[test]
#[should_panic(expected = "outside a task")]
fn idle_never_blocks() {
    Kernel::new().block(None);
}

#[test]
#[should_panic(expected = "not ended")]
fn a_wait_that_has_not_ended_is_noticed() {
    let mut k = kernel([5]);
    k.block(None);
    k.woken_by();
}

#[test]
fn time_is_charged_to_whom_it_was_given() {
    let mut k = kernel([1, 2]);
    assert_eq!(k.running(), p(1));
    k.block(Some(100));
    k.switch(1, 30);
    k.expire(100);
    k.switch(2, 110);
    assert_eq!(k.task(p(1), 125).map(|task| (task.ran, task.switches)), Some((30 + 15, 2)));
    assert_eq!(k.task(p(2), 125).map(|task| (task.ran, task.switches)), Some((80, 1)));
    assert!(k.task(p(3), 125).is_none());
    assert_eq!(k.task(Priority::IDLE, 125).map(|task| task.name), Some("idle"));
}
