//! The checksum of one VM's configuration.

use hmac_sha256::Hash;

/// SHA-256 over device-tree nodes: over each node's name and a NUL, then each of its properties as name, NUL, length
/// (32 bits, big endian) and value, in the order of the tree.
///
/// A VM's configuration is protected by the digest over its own node, then over its kernel's image node and that
/// node's `hash-1`, then the same for the initrd if there is one. Writer and reader share this type.
#[derive(Clone, Default)]
pub struct Digest(Hash);

impl Digest {
    /// Begins a node. Its properties follow.
    pub fn node(&mut self, name: &str) {
        self.text(name);
    }

    /// Adds a property of the node begun last.
    pub fn property(&mut self, name: &str, value: &[u8]) {
        self.text(name);
        // A property's length is a 32-bit field of the tree.
        self.0.update((value.len() as u32).to_be_bytes());
        self.0.update(value);
    }

    /// The digest of all nodes added.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize()
    }

    fn text(&mut self, text: &str) {
        self.0.update(text.as_bytes());
        self.0.update([0]);
    }
}
