//! Writing FIT images: a flattened device tree with hashes and external data, as `mkimage -E -B 1000` makes them
//! (U-Boot, doc/usage/fit/source_file_format.rst).

use bundle::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use vm_fdt::FdtWriter;

/// Every image begins at a multiple of this in the file, so that it can be mapped.
const ALIGN: usize = 4096;

/// A node that is to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    name: String,
    properties: Vec<(&'static str, Vec<u8>)>,
    children: Vec<Node>,
}

impl Node {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub(crate) fn str(self, name: &'static str, text: &str) -> Self {
        self.bytes(name, [text.as_bytes(), &[0]].concat())
    }

    /// A list of strings; nothing if it is empty.
    pub(crate) fn strs(self, name: &'static str, texts: &[&str]) -> Self {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| text.bytes().chain([0])).collect();
        if texts.is_empty() { self } else { self.bytes(name, bytes) }
    }

    pub(crate) fn u32(self, name: &'static str, value: u32) -> Self {
        self.bytes(name, value.to_be_bytes())
    }

    pub(crate) fn u64(self, name: &'static str, value: u64) -> Self {
        self.bytes(name, value.to_be_bytes())
    }

    pub(crate) fn flag(self, name: &'static str, value: bool) -> Self {
        if value { self.bytes(name, []) } else { self }
    }

    fn bytes(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.properties.push((name, value.into()));
        self
    }

    pub(crate) fn child(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }

    pub(crate) fn children(mut self, children: impl IntoIterator<Item = Node>) -> Self {
        self.children.extend(children);
        self
    }

    /// Adds the sub-node of a hash.
    pub(crate) fn sha256(self, value: [u8; 32]) -> Self {
        self.child(Node::new("hash-1").bytes("value", value).str("algo", "sha256"))
    }

    /// Adds the node, without its sub-nodes, to `digest`.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.node(&self.name);
        for (name, value) in &self.properties {
            digest.property(name, value);
        }
    }

    fn write(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let node = fdt.begin_node(&self.name)?;
        for (name, value) in &self.properties {
            fdt.property(name, value)?;
        }
        for child in &self.children {
            child.write(fdt)?;
        }
        fdt.end_node(node)
    }
}

/// The images of a FIT: equal ones are stored once.
#[derive(Default)]
pub(crate) struct Images {
    nodes: Vec<Node>,
    data: Vec<u8>,
    by_content: HashMap<(&'static str, [u8; 32]), usize>,
}

/// An image's number in [`Images`].
#[derive(Clone, Copy)]
pub(crate) struct ImageId(usize);

impl Images {
    /// Adds an image of a FIT image type (`kernel`, `ramdisk`); none if the file would pass 4 GiB, FIT's limit.
    pub(crate) fn add(&mut self, kind: &'static str, description: &str, bytes: &[u8]) -> Option<ImageId> {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        if let Some(&index) = self.by_content.get(&(kind, hash)) {
            return Some(ImageId(index));
        }
        let end = self.data.len().checked_add(bytes.len())?.checked_next_multiple_of(ALIGN)?;
        let (offset, size) = (u32::try_from(self.data.len()).ok()?, u32::try_from(bytes.len()).ok()?);
        u32::try_from(end).ok()?;
        let index = self.nodes.len();
        let node = Node::new(format!("{kind}-{}", index + 1))
            .str("description", description)
            .str("type", kind)
            .str("arch", "arm64")
            .str("os", "linux")
            .str("compression", "none")
            .u32("data-size", size)
            .u32("data-offset", offset)
            .sha256(hash);
        self.nodes.push(node);
        self.data.extend_from_slice(bytes);
        self.data.resize(end, 0);
        self.by_content.insert((kind, hash), index);
        Some(ImageId(index))
    }

    pub(crate) fn name(&self, id: ImageId) -> &str {
        &self.nodes[id.0].name
    }

    /// Adds the image's node and its hash's to `digest`.
    pub(crate) fn digest(&self, id: ImageId, digest: &mut Digest) {
        let node = &self.nodes[id.0];
        node.digest(digest);
        node.children.iter().for_each(|hash| hash.digest(digest));
    }

    /// Writes the FIT with these images and one configuration. Equal input gives equal bytes.
    pub(crate) fn write(self, description: &str, configuration: Node) -> Result<Vec<u8>, vm_fdt::Error> {
        let root = Node::new("")
            // FIT demands a time; a constant one keeps builds reproducible.
            .u32("timestamp", 0)
            .str("description", description)
            .u32("#address-cells", 2)
            .child(Node::new("images").children(self.nodes))
            .child(Node::new("configurations").str("default", &configuration.name).child(configuration));
        let mut fdt = FdtWriter::new()?;
        root.write(&mut fdt)?;
        let mut out = fdt.finish()?;
        // The data begins where the tree ends: its header's totalsize (Devicetree Specification 0.4, 5.2), word 1.
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        let total = u32::try_from(out.len()).map_err(|_| vm_fdt::Error::TotalSizeTooLarge)?;
        out[4..8].copy_from_slice(&total.to_be_bytes());
        out.extend_from_slice(&self.data);
        Ok(out)
    }
}
