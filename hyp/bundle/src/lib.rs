//! The bundle: one FIT image (a flattened device tree with external data) that holds every guest's images and the
//! machine's configuration, written by the host from a machine file and read here at EL2.
//!
//! The binding is documented in `docs/fit-binding.md`. The reader trusts nothing in it: a bundle that is no well-formed
//! FIT is refused as a whole, a VM whose configuration is wrong or whose images lie outside the bundle is refused
//! alone, with an [`Error`] that names the node and the property. No input makes it panic, and it allocates nothing.
//!
//! ```text
//! 0            fdt_len (aligned to 4)                                 total_len
//! | device tree |  image data ... (each at its data-offset)           |
//! ```
//! Only the device tree is read here. The images' bytes are named by offset and size, and their SHA-256 is for the
//! caller to check when it copies them.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod config;
mod digest;
mod error;
mod node;

pub use config::{Image, Initrd, Kernel, Memory, Names, Schedule, VmConfig, is_name};
pub use digest::Digest;
pub use error::{Error, Reason};

use dtoolkit::Node as _;
use dtoolkit::fdt::{Fdt, FdtNode};
use node::Reader;

/// `compatible` of the configuration node: the version of the binding.
pub const COMPATIBLE: &str = "mobivmm,machine-v1";
/// The most virtual machines in one bundle.
pub const MAX_VMS: usize = 16;
/// The most vCPUs of one VM: GICv2 has eight CPU interfaces (Arm IHI 0048B).
pub const MAX_VCPUS: u32 = 8;
/// The longest name of a VM, in bytes: a device-tree node name (Devicetree Specification 0.4, 2.2.1).
pub const MAX_NAME: usize = 31;
/// The longest command line, in bytes: Linux's COMMAND_LINE_SIZE on arm64 without the final NUL.
pub const MAX_CMDLINE: usize = 2047;
/// The bytes that are kept free for the guest's device tree at [`VmConfig::dtb_load`].
pub const DTB_WINDOW: u64 = 0x1_0000;
/// Where guest RAM may begin at the lowest, and does if the machine file does not say: QEMU `virt`'s RAM base.
pub const RAM_BASE: u64 = 0x4000_0000;
/// Where guest RAM must end at the latest: the end of the 40-bit intermediate physical address space.
pub const RAM_END: u64 = 1 << 40;
/// Base and size of guest RAM are multiples of this, in bytes: a level 2 block of stage 2 with a 4 KiB granule.
pub const RAM_ALIGN: u64 = 2 << 20;
/// The most channels of one VM.
pub const MAX_CHANNELS: usize = 8;
/// Weights of a proportional share run from 1 to this.
pub const MAX_WEIGHT: u32 = 65_535;
/// The shortest budget of a reservation, in nanoseconds.
pub const MIN_BUDGET_NS: u64 = 1_000;
/// The longest period of a reservation, in nanoseconds.
pub const MAX_PERIOD_NS: u64 = 10_000_000_000;
/// The most that a reservation may ever ask for, in percent of one CPU: what admission leaves to reservations.
pub const MAX_ADJUSTABLE_PERCENT: u32 = 95;

/// A bundle whose device tree is well formed and of a known binding; its VMs are yet to be read, one by one.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    fdt: Fdt<'a>,
    name: &'a str,
    images: FdtNode<'a>,
    machine: FdtNode<'a>,
    data_start: u64,
    total_len: u64,
}

impl<'a> Bundle<'a> {
    /// How many bytes the device tree has, as its header says: what [`Bundle::parse`] needs to see. `head` is the
    /// beginning of the bundle, eight bytes or more.
    pub fn fdt_len(head: &[u8]) -> Result<usize, Error<'static>> {
        const FDT_MAGIC: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();
        let bad = Error { node: "/", property: "", reason: Reason::NotFdt };
        let (magic, rest) = head.split_first_chunk::<4>().ok_or(bad)?;
        let size = rest.first_chunk::<4>().ok_or(bad)?;
        if *magic != FDT_MAGIC {
            return Err(bad);
        }
        usize::try_from(u32::from_be_bytes(*size)).map_err(|_| bad)
    }

    /// Reads the frame of a bundle: `fdt` is its first [`Bundle::fdt_len`] bytes (more are ignored), `total_len` the
    /// length of all of it, images included, in bytes.
    ///
    /// # Errors
    /// The tree is malformed, or it is no FIT with a default configuration of the binding [`COMPATIBLE`].
    pub fn parse(fdt: &'a [u8], total_len: u64) -> Result<Self, Error<'a>> {
        let malformed = Error { node: "/", property: "", reason: Reason::NotFdt };
        let truncated = Error { node: "/", property: "", reason: Reason::Truncated };
        let len = Self::fdt_len(fdt)?;
        if len as u64 > total_len {
            return Err(truncated);
        }
        let fdt = Fdt::new(fdt.get(..len).ok_or(truncated)?).map_err(|_| malformed)?;
        let root = Reader::new(fdt.root());
        let configurations = root.child("configurations")?;
        let machine = configurations.child(configurations.str("default")?)?;
        if machine.str("compatible")? != COMPATIBLE {
            return Err(machine.error("compatible", Reason::UnknownBinding));
        }
        Ok(Self {
            fdt,
            name: machine.str("description")?,
            images: root.child("images")?.node,
            machine: machine.node,
            data_start: (len as u64).next_multiple_of(4),
            total_len,
        })
    }

    /// The machine's name: text for people.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The names of all the machine's VMs, also of those that [`Bundle::vms`] refuses.
    pub fn vm_names(&self) -> impl Iterator<Item = &'a str> {
        self.machine.children().map(|node| node.name())
    }

    /// The machine's VMs in the order of the machine file, each read and checked by itself: a wrong one is an error in
    /// its place and leaves the others usable. The position is the VM's number; VMs from [`MAX_VMS`] on are errors.
    pub fn vms(&self) -> impl Iterator<Item = Result<VmConfig<'a>, Error<'a>>> {
        let bundle = *self;
        bundle.machine.children().enumerate().map(move |(index, node)| {
            let reader = Reader::new(node);
            if index >= MAX_VMS {
                return Err(reader.error("", Reason::TooManyVms));
            }
            if bundle.machine.children().take(index).any(|earlier| earlier.name() == node.name()) {
                return Err(reader.error("", Reason::DuplicateName));
            }
            config::read(&bundle, &reader)
        })
    }

    /// Looks up one image by its node's name for the property `property` of `vm`, and checks that the bundle holds it.
    fn image(&self, vm: &Reader<'a>, property: &'static str) -> Result<(Image<'a>, Reader<'a>), Error<'a>> {
        let name = vm.str(property)?;
        let node = self.images.children().find(|image| image.name() == name);
        let image = Reader::new(node.ok_or(vm.error(property, Reason::NoSuchImage))?);
        let size = image.u32("data-size")?.into();
        let offset = self.data_start.checked_add(image.u32("data-offset")?.into());
        let offset = offset.ok_or(image.error("data-offset", Reason::Truncated))?;
        if size == 0 {
            return Err(image.error("data-size", Reason::OutOfRange));
        }
        if offset.checked_add(size).is_none_or(|end| end > self.total_len) {
            return Err(image.error("data-size", Reason::Truncated));
        }
        Ok((Image { offset, size, sha256: image.sha256()? }, image))
    }
}
