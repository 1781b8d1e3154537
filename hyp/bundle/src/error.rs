//! Why a bundle, or one VM of it, is refused.

use core::fmt;

/// What is wrong, and where: prints as `NODE: PROPERTY: REASON`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error<'a> {
    /// The name of the device-tree node: for an error of one VM, the VM's name or that of an image it uses.
    pub node: &'a str,
    /// The property, or empty if it is the node as a whole.
    pub property: &'a str,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The bundle does not begin with a well-formed flattened device tree.
    #[error("not a well-formed FIT image")]
    NotFdt,
    /// The bundle ends before this does.
    #[error("the bundle ends before it")]
    Truncated,
    /// The configuration follows another binding than [`crate::COMPATIBLE`].
    #[error("not a binding that this version knows")]
    UnknownBinding,
    /// A node or property is not there.
    #[error("is missing")]
    Missing,
    /// A property or a sub-node is not part of the binding.
    #[error("not known to this version")]
    Unknown,
    /// The value has another length or encoding than the binding says.
    #[error("has the wrong type")]
    BadType,
    /// The value is outside the limits of the binding.
    #[error("out of range")]
    OutOfRange,
    /// The address or size is not aligned as the binding says.
    #[error("misaligned")]
    Misaligned,
    /// The node name is not 1 to 31 of `a-z`, `0-9` and `-`.
    #[error("the name is not 1 to 31 of a-z, 0-9 and -")]
    BadName,
    /// An earlier VM has the same name.
    #[error("an earlier VM has this name")]
    DuplicateName,
    /// There are more than [`crate::MAX_VMS`] VMs.
    #[error("too many VMs")]
    TooManyVms,
    /// The property names an image that is not in the bundle.
    #[error("names no image of the bundle")]
    NoSuchImage,
    /// It lies, in whole or in part, outside the VM's RAM.
    #[error("outside the VM's RAM")]
    OutsideRam,
    /// It overlaps another part of the VM's memory.
    #[error("overlaps the VM's kernel, initrd or device tree")]
    Overlap,
    /// The configuration's SHA-256 does not match: it was changed after it was written.
    #[error("SHA-256 mismatch, the configuration is corrupt")]
    Corrupt,
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.node)?;
        if !self.property.is_empty() {
            write!(f, "{}: ", self.property)?;
        }
        self.reason.fmt(f)
    }
}

impl core::error::Error for Error<'_> {}
