//! Why a machine file is refused.

use std::fmt;
use std::path::PathBuf;

/// A refusal: prints as `FILE:LINE: KEY: REASON`, where the reason says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The machine file.
    pub file: PathBuf,
    /// The line in it, from 1; 0 if it is the file as a whole.
    pub line: usize,
    /// The key as in `vm[linux].memory`; empty if it is none.
    pub key: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line != 0 {
            write!(f, "{}:", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.reason)
    }
}

impl std::error::Error for Error {}
