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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The bundle does not begin with a well-formed flattened device tree.
    NotFdt,
    /// The bundle ends before this does.
    Truncated,
    /// The configuration follows another binding than [`crate::COMPATIBLE`].
    UnknownBinding,
    /// A node or property is not there.
    Missing,
    /// A property or a sub-node is not part of the binding.
    Unknown,
    /// The value has another length or encoding than the binding says.
    BadType,
    /// The value is outside the limits of the binding.
    OutOfRange,
    /// The address or size is not aligned as the binding says.
    Misaligned,
    /// The node name is not 1 to 31 of `a-z`, `0-9` and `-`.
    BadName,
    /// An earlier VM has the same name.
    DuplicateName,
    /// There are more than [`crate::MAX_VMS`] VMs.
    TooManyVms,
    /// The property names an image that is not in the bundle.
    NoSuchImage,
    /// It lies, in whole or in part, outside the VM's RAM.
    OutsideRam,
    /// It overlaps another part of the VM's memory.
    Overlap,
    /// The configuration's SHA-256 does not match: it was changed after it was written.
    Corrupt,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFdt => "not a well-formed FIT image",
            Self::Truncated => "the bundle ends before it",
            Self::UnknownBinding => "not a binding that this version knows",
            Self::Missing => "is missing",
            Self::Unknown => "not known to this version",
            Self::BadType => "has the wrong type",
            Self::OutOfRange => "out of range",
            Self::Misaligned => "misaligned",
            Self::BadName => "the name is not 1 to 31 of a-z, 0-9 and -",
            Self::DuplicateName => "an earlier VM has this name",
            Self::TooManyVms => "too many VMs",
            Self::NoSuchImage => "names no image of the bundle",
            Self::OutsideRam => "outside the VM's RAM",
            Self::Overlap => "overlaps the VM's kernel, initrd or device tree",
            Self::Corrupt => "SHA-256 mismatch, the configuration is corrupt",
        })
    }
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
