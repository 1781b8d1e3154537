//! What the tests of applications share.
#![allow(dead_code, reason = "not every test program uses all of it")]

use std::sync::{Arc, Mutex};

use mobi_rtos::{Priority, Task, time};

/// What happened, and when.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<(u64, String)>>>);

impl Log {
    /// Notes it.
    pub fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push((time::now().as_ticks(), what.into()));
    }

    /// All of it.
    pub fn take(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// What happened, without the times.
    pub fn names(&self) -> Vec<String> {
        self.take().into_iter().map(|(_, what)| what).collect()
    }
}

/// What a `static` would be.
pub fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Spawns a task that is not needed later.
pub fn spawn(priority: u8, entry: impl FnOnce() + Send + 'static) {
    leak(Task::<4096>::new()).spawn("test", Priority::new(priority), entry).unwrap();
}
