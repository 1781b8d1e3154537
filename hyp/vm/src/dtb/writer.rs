//! Writes flattened device trees (Devicetree Specification 0.4, chapter 5). Own code, since what vm-fdt does it with, maps of names and a string of
//! its own for each value, would be 10 KB of EL2's image.

use alloc::vec::Vec;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const END: u32 = 9;
const HEADER: usize = 40;
/// An empty memory reservation block: its final entry.
const RESERVATIONS: usize = 16;

/// A tree that is being written.
#[derive(Default)]
pub struct Writer {
    structure: Vec<u8>,
    /// Names of properties, each as often as it is used.
    strings: Vec<u8>,
}

impl Writer {
    /// Begins a node in the one that was begun last and not ended: first its properties, then its nodes.
    pub fn begin(&mut self, name: &str) {
        self.cell(BEGIN_NODE);
        self.text(name);
        self.align();
    }

    /// Ends that node.
    pub fn end(&mut self) {
        self.cell(END_NODE);
    }

    /// Adds a property that is an array of cells; without any it is there, and empty.
    pub fn cells(&mut self, name: &str, cells: &[u32]) {
        self.property(name, cells.len() * 4);
        cells.iter().for_each(|&cell| self.cell(cell));
    }

    /// Adds a property that is a list of strings, which have no NUL.
    pub fn strings(&mut self, name: &str, strings: &[&str]) {
        self.property(name, strings.iter().map(|text| text.len() + 1).sum());
        strings.iter().for_each(|text| self.text(text));
        self.align();
    }

    /// The tree, all of whose nodes have ended.
    pub fn finish(mut self) -> Vec<u8> {
        self.cell(END);
        let structure = HEADER + RESERVATIONS;
        let strings = structure + self.structure.len();
        let total = strings + self.strings.len();
        let sizes = [self.strings.len(), self.structure.len()];
        // Version 17, which readers of version 16 understand; the boot CPU has number 0.
        let header = [0xd00d_feed, total, structure, strings, HEADER, 17, 16, 0, sizes[0], sizes[1]];
        let mut tree = Vec::with_capacity(total);
        header.iter().for_each(|&cell| tree.extend_from_slice(&(cell as u32).to_be_bytes()));
        tree.extend_from_slice(&[0; RESERVATIONS]);
        tree.extend_from_slice(&self.structure);
        tree.extend_from_slice(&self.strings);
        tree
    }

    fn property(&mut self, name: &str, len: usize) {
        let at = self.strings.len();
        [PROP, len as u32, at as u32].iter().for_each(|&cell| self.cell(cell));
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
    }

    fn cell(&mut self, cell: u32) {
        self.structure.extend_from_slice(&cell.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.structure.extend_from_slice(text.as_bytes());
        self.structure.push(0);
    }

    fn align(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }
}
