//! Reading a flattened device tree: properties, a walk over all nodes, addresses through `ranges`, interrupt specifiers.

use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{FdtStringListIterator, FromPropertyValue, Node, Property, ToCellInt};

/// Buses deeper than this are not looked at.
const MAX_DEPTH: usize = 8;

/// A node together with the nodes above it, and what is asked of every node: a walk reads each property once, since boot
/// time is instructions.
pub(super) struct Located<'a, 'd> {
    pub node: FdtNode<'d>,
    /// `compatible`.
    pub compatible: &'d [u8],
    /// As [`is_available`].
    pub available: bool,
    has_ranges: bool,
    parent: Option<&'a Located<'a, 'd>>,
}

/// Calls `visit` for every node below the root, and below buses that the CPUs reach (those with `ranges`), parents first.
pub(super) fn walk<'d>(fdt: Fdt<'d>, visit: &mut impl FnMut(&Located<'_, 'd>)) {
    fn below<'d>(bus: &Located<'_, 'd>, depth: usize, visit: &mut impl FnMut(&Located<'_, 'd>)) {
        for node in bus.node.children() {
            let at = Located::new(node, Some(bus));
            visit(&at);
            if at.has_ranges && depth < MAX_DEPTH {
                below(&at, depth + 1, visit);
            }
        }
    }
    below(&Located::new(fdt.root(), None), 1, visit);
}

impl<'a, 'd> Located<'a, 'd> {
    fn new(node: FdtNode<'d>, parent: Option<&'a Located<'a, 'd>>) -> Self {
        let mut at = Self { node, compatible: &[], available: true, has_ranges: false, parent };
        for property in node.properties() {
            match property.name() {
                "compatible" => at.compatible = property.value_as().unwrap_or_default(),
                "status" => at.available = is_okay(property.value_as().ok()),
                "ranges" => at.has_ranges = true,
                _ => {}
            }
        }
        at
    }

    /// Whether the node is a child of the root.
    pub fn is_top_level(&self) -> bool {
        self.parent.is_some_and(|parent| parent.parent.is_none())
    }

    /// The node's register blocks as physical addresses; ends at the first that is malformed or has none.
    pub fn registers(&self) -> impl Iterator<Item = Range<u64>> {
        ranges(self.node).map_while(|range| self.translate(range))
    }

    /// From the bus that the node is on to the CPUs (Devicetree Specification v0.4, section 2.3.8).
    fn translate(&self, range: Range<u64>) -> Option<Range<u64>> {
        let size = range.end - range.start;
        let mut start = range.start;
        let mut bus = self.parent;
        while let Some(Located { node, parent: Some(above), .. }) = bus {
            let mut windows = node.ranges().ok()??.peekable();
            if windows.peek().is_some() {
                start = windows.find_map(|window| {
                    let offset = start.checked_sub(window.child_bus_address().ok()?)?;
                    let length: u64 = window.length().ok()?;
                    let parent: u64 = window.parent_bus_address().ok()?;
                    (offset.checked_add(size)? <= length).then(|| parent.checked_add(offset))?
                })?;
            }
            bus = Some(above);
        }
        Some(start..start.checked_add(size)?)
    }

    /// The phandle of the node that its interrupts go to: its own `interrupt-parent`, or that of the closest node above.
    pub fn interrupt_parent(&self) -> Option<u32> {
        let mut at = Some(self);
        while let Some(located) = at {
            if let Some(phandle) = cell(located.node, "interrupt-parent") {
                return Some(phandle);
            }
            at = located.parent;
        }
        None
    }
}

fn property<'d, T: FromPropertyValue<'d>>(node: FdtNode<'d>, name: &str) -> Option<T> {
    node.property(name)?.value_as().ok()
}

/// A property's bytes; none if there is no such property.
pub(super) fn bytes<'d>(node: FdtNode<'d>, name: &str) -> &'d [u8] {
    property(node, name).unwrap_or_default()
}

/// A property that is one string.
pub(super) fn string<'d>(node: FdtNode<'d>, name: &str) -> Option<&'d str> {
    property(node, name)
}

/// The strings of a property that is a list of them.
pub(super) fn strings(list: &[u8]) -> impl Iterator<Item = &str> {
    FdtStringListIterator::from_property_value(list).into_iter().flatten()
}

/// A property that is one cell.
pub(super) fn cell(node: FdtNode<'_>, name: &str) -> Option<u32> {
    property(node, name)
}

/// A property that is a number of one or two cells.
pub(super) fn number(node: FdtNode<'_>, name: &str) -> Option<u64> {
    property::<u64>(node, name).or_else(|| cell(node, name).map(u64::from))
}

/// Cell `n` of a property that is an array of cells.
pub(super) fn nth_cell(cells: &[u8], n: usize) -> Option<u32> {
    let (cells, _) = cells.as_chunks();
    cells.get(n).copied().map(u32::from_be_bytes)
}

/// `reg` as it stands, empty ranges left out; ends at the first that is malformed.
pub(super) fn ranges(node: FdtNode<'_>) -> impl Iterator<Item = Range<u64>> {
    let reg = node.reg().ok().flatten().into_iter().flatten();
    reg.map_while(|reg| {
        let start: u64 = reg.address.to_int().ok()?;
        Some(start..start.checked_add(reg.size.to_int().ok()?)?)
    })
    .filter(|range| !range.is_empty())
}

/// Whether the node's device may be used (Devicetree Specification v0.4, section 2.3.4; "ok" is an old way to say "okay").
pub(super) fn is_available(node: FdtNode<'_>) -> bool {
    node.property("status").is_none_or(|status| is_okay(status.value_as().ok()))
}

fn is_okay(status: Option<&str>) -> bool {
    matches!(status, Some("okay" | "ok"))
}

/// The INTID of interrupt `n` of an `interrupts` property in the GICs' format: type, number and flags, in the first three of
/// `stride` cells (`arm/gic.yaml`, `arm,gic-v3.yaml`).
pub(super) fn interrupt(specifiers: &[u8], stride: u32, n: usize) -> Option<u32> {
    let at = n.checked_mul(stride as usize)?;
    let number = nth_cell(specifiers, at.checked_add(1)?)?;
    match nth_cell(specifiers, at)? {
        0 if number < 988 => Some(32 + number),
        1 if number < 16 => Some(16 + number),
        _ => None,
    }
}
