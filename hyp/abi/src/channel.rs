//! Channels: a page that the hypervisor lends to two VMs, and a bell for each of the two to ring at the other
//! ([`crate::smccc::CHANNEL_NOTIFY`]). The machine file grants them.
//!
//! Each end has a node in its VM's device tree:
//!
//! | property | |
//! |---|---|
//! | `compatible` | [`COMPATIBLE`] |
//! | `reg` | the page's address and its size, [`PAGE_SIZE`] |
//! | `interrupts` | the bell: an edge-triggered SPI |
//! | `label` | the channel's name in the machine file |
//! | [`NUMBER`] | the VM's number for [`crate::smccc::CHANNEL_NOTIFY`] |
//! | [`END`] | which end this is, 0 or 1 |
//!
//! The page belongs to neither VM: if one stops or restarts, the other one still has it, as the first one left it. The
//! hypervisor clears it when it makes the channel, and does not look at it again: what is in it is for the two guests to agree on
//! (mobi-rtos' `pv::page` is a byte stream and lines each way). An end must take what it reads from the page for what it is:
//! words that the other VM can change at any time.

/// The device tree binding's name.
pub const COMPATIBLE: &str = "mobivmm,channel";
/// The property with the VM's number for the channel.
pub const NUMBER: &str = "mobivmm,channel";
/// The property that says which end it is.
pub const END: &str = "mobivmm,end";
/// Bytes of a channel's page.
pub const PAGE_SIZE: usize = 4096;
