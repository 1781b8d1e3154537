//! What came of a check.

use core::fmt::Debug;

use crate::println;

/// A check under way: says what is wrong at once, and the verdict at the end.
pub struct Check {
    name: &'static str,
    passes: bool,
}

impl Check {
    /// Begins one.
    pub fn new(name: &'static str) -> Self {
        Self { name, passes: true }
    }

    /// It is as it should be, or the check fails.
    pub fn equal<T: PartialEq + Debug>(&mut self, what: &str, is: T, should: T) {
        if is != should {
            println!("  {what}: {is:x?}, not {should:x?}");
            self.passes = false;
        }
    }

    /// It is so, or the check fails.
    pub fn holds(&mut self, what: &str, holds: bool) {
        if !holds {
            println!("  not so: {what}");
            self.passes = false;
        }
    }

    /// Ends it.
    pub fn verdict(self) {
        println!("{} {}", if self.passes { "PASS" } else { "FAIL" }, self.name);
    }
}
