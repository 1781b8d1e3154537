//! Typed access to one device-tree node: every refusal names the node and the property.

use crate::{Digest, Error, Reason};
use core::cell::Cell;
use dtoolkit::fdt::{FdtNode, FdtProperty};
use dtoolkit::{Node as _, Property as _};

/// More than any node of the binding has.
const MAX_PROPERTIES: usize = 24;

/// One node, with its name and properties: to look one up in the tree is to read all names before it.
pub(crate) struct Reader<'a> {
    pub(crate) node: FdtNode<'a>,
    pub(crate) name: &'a str,
    properties: [Option<FdtProperty<'a>>; MAX_PROPERTIES],
    /// Which of them have been looked up, a bit each.
    known: Cell<u32>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(node: FdtNode<'a>) -> Self {
        let mut properties = node.properties().fuse();
        let name = match node.name() {
            "" => "/",
            name => name,
        };
        Self { node, name, properties: core::array::from_fn(|_| properties.next()), known: Cell::new(0) }
    }

    /// An error at `property` of this node.
    pub(crate) fn error(&self, property: &'a str, reason: Reason) -> Error<'a> {
        Error { node: self.name, property, reason }
    }

    /// The sub-node of exactly this name.
    pub(crate) fn child(&self, name: &'a str) -> Result<Self, Error<'a>> {
        let child = self.node.children().find(|child| child.name() == name);
        child.map(Self::new).ok_or(self.error(name, Reason::Missing))
    }

    /// The value of a property that may be absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'a [u8]> {
        let mut properties = self.properties.iter().flatten().enumerate();
        let (index, property) = properties.find(|(_, property)| property.name() == name)?;
        self.known.set(self.known.get() | 1 << index);
        property.value_as().ok()
    }

    fn bytes(&self, name: &'static str) -> Result<&'a [u8], Error<'a>> {
        self.get(name).ok_or(self.error(name, Reason::Missing))
    }

    fn array<const N: usize>(&self, name: &'static str) -> Result<&'a [u8; N], Error<'a>> {
        self.bytes(name)?.try_into().map_err(|_| self.error(name, Reason::BadType))
    }

    pub(crate) fn u32(&self, name: &'static str) -> Result<u32, Error<'a>> {
        self.array(name).map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub(crate) fn u64(&self, name: &'static str) -> Result<u64, Error<'a>> {
        self.array(name).map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// A string: UTF-8 that ends with its only NUL.
    pub(crate) fn str(&self, name: &'static str) -> Result<&'a str, Error<'a>> {
        let text = self.bytes(name)?.strip_suffix(&[0]).and_then(|text| core::str::from_utf8(text).ok());
        text.filter(|text| !text.contains('\0')).ok_or(self.error(name, Reason::BadType))
    }

    /// A property that says "yes" by being there, without a value.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, Error<'a>> {
        match self.get(name) {
            None => Ok(false),
            Some([]) => Ok(true),
            Some(_) => Err(self.error(name, Reason::BadType)),
        }
    }

    /// The value of the sub-node `hash-1`, which must be a SHA-256 (U-Boot's FIT source file format, "hash nodes").
    pub(crate) fn sha256(&self) -> Result<&'a [u8; 32], Error<'a>> {
        let hash = self.child("hash-1")?;
        if hash.str("algo") != Ok("sha256") {
            return Err(self.error("hash-1", Reason::Unknown));
        }
        hash.array("value").map_err(|error| self.error("hash-1", error.reason))
    }

    /// Adds the node to `digest`.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.node(self.name);
        for property in self.node.properties() {
            digest.property(property.name(), property.value());
        }
    }

    /// Adds the node of an image to `digest`, and its `hash-1`.
    pub(crate) fn digest_image(&self, digest: &mut Digest) -> Result<(), Error<'a>> {
        self.digest(digest);
        self.child("hash-1")?.digest(digest);
        Ok(())
    }

    /// Refuses a property that nobody has looked up, and every sub-node but `hash-1`. `tree` is the whole tree.
    pub(crate) fn refuse_others(&self, tree: &'a [u8]) -> Result<(), Error<'a>> {
        let is_known = |index: usize| index < MAX_PROPERTIES && self.known.get() >> index & 1 != 0;
        let other = self.node.properties().enumerate().find(|&(index, _)| !is_known(index));
        if let Some((_, property)) = other {
            return Err(self.error(in_tree(tree, property.name()), Reason::Unknown));
        }
        match self.node.children().find(|child| child.name() != "hash-1") {
            Some(child) => Err(self.error(child.name(), Reason::Unknown)),
            None => Ok(()),
        }
    }
}

/// `name`, a part of `tree`, with the tree's lifetime: a property lends its name for its own lifetime only.
fn in_tree<'a>(tree: &'a [u8], name: &str) -> &'a str {
    let start = name.as_ptr().addr().wrapping_sub(tree.as_ptr().addr());
    let bytes = tree.get(start..start.saturating_add(name.len()));
    bytes.and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
}
