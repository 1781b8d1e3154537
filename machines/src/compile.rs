//! From a machine to the bundle that the hypervisor reads.

use crate::Error;
use crate::fit::{ImageId, Images, Node};
use crate::kernel::flatten;
use crate::machine::{Input, Machine, Origin, Vm};
use crate::placement::place;
use crate::units::show_size;
use bundle::{COMPATIBLE, DTB_WINDOW, Digest, Schedule};
use std::path::{Path, PathBuf};

/// Finds a built-in artefact by package and file.
pub type Resolver<'a> = dyn Fn(&str, &str) -> anyhow::Result<PathBuf> + 'a;

impl Machine {
    /// Compiles the machine into a bundle: `docs/fit-binding.md` describes it. `resolver` gives the paths of built-in
    /// artefacts. Equal input gives equal bytes.
    ///
    /// # Errors
    /// An image is not there, has no known format, or does not fit into its VM's memory.
    pub fn compile(&self, resolver: &Resolver<'_>) -> Result<Vec<u8>, Error> {
        let compiler = Compiler { file: &self.file, resolver };
        let mut images = Images::default();
        let mut machine = Node::new("machine").str("description", &self.name).str("compatible", COMPATIBLE);
        for vm in &self.vms {
            let ends = self.channels.iter().filter(|channel| channel.between.contains(&vm.name));
            let channels: Vec<&str> = ends.map(|channel| channel.name.as_str()).collect();
            machine = machine.child(compiler.vm(vm, &channels, &mut images)?);
        }
        let error = |error| {
            compiler.error(0, "", format!("cannot be written as a FIT image: {error}; make it smaller"))
        };
        images.write(&self.name, machine).map_err(error)
    }
}

struct Compiler<'a> {
    file: &'a Path,
    resolver: &'a Resolver<'a>,
}

impl Compiler<'_> {
    fn vm(&self, vm: &Vm, channels: &[&str], images: &mut Images) -> Result<Node, Error> {
        let input = &vm.kernel.input;
        let flat = flatten(self.read(input)?, vm.kernel.raw, &vm.memory);
        let kernel = flat.map_err(|reason| self.input_error(input, reason))?;
        let initrd = vm.initrd.as_ref().map(|input| self.initrd(input)).transpose()?;
        let initrd_size = initrd.as_ref().map_or(0, Vec::len) as u64;

        let placement = place(&vm.memory, kernel.load, kernel.mem_size, initrd_size).map_err(|needed| {
            let [kernel, initrd] = [kernel.mem_size, initrd_size].map(mib);
            let (has, needed, dtb) = (show_size(vm.memory.size), show_size(needed), show_size(DTB_WINDOW));
            let reason = format!(
                "{has} are too little: kernel ({kernel}), initrd ({initrd}) and device tree ({dtb}) need {needed} \
                 even before the guest runs; give it more"
            );
            self.error(vm.memory_line, format!("vm[{}].memory", vm.name), reason)
        })?;

        let kernel_id = self.add(images, "kernel", input, &kernel.bytes)?;
        let mut node = Node::new(&vm.name)
            .u32("vcpus", vm.vcpus)
            .u64("memory-base", vm.memory.base)
            .u64("memory-size", vm.memory.size)
            .flag("memory-identity", vm.memory.identity)
            .str("cmdline", &vm.cmdline);
        node = schedule(node, &vm.schedule)
            .u32("adjustable-percent", vm.adjustable_percent)
            .u64("affinity", vm.affinity)
            .strs("channels", channels)
            .str("kernel", images.name(kernel_id))
            .u64("kernel-load", kernel.load)
            .u64("kernel-entry", kernel.entry)
            .u64("kernel-mem-size", kernel.mem_size)
            .u64("dtb-load", placement.dtb);
        let mut used = vec![kernel_id];
        if let (Some(bytes), Some(input)) = (&initrd, &vm.initrd) {
            let id = self.add(images, "ramdisk", input, bytes)?;
            node = node.str("initrd", images.name(id)).u64("initrd-load", placement.initrd);
            used.push(id);
        }
        let mut digest = Digest::default();
        node.digest(&mut digest);
        used.iter().for_each(|&id| images.digest(id, &mut digest));
        Ok(node.sha256(digest.finish()))
    }

    fn initrd(&self, input: &Input) -> Result<Vec<u8>, Error> {
        let bytes = self.read(input)?;
        if bytes.is_empty() { Err(self.input_error(input, "is empty: leave it out")) } else { Ok(bytes) }
    }

    fn read(&self, input: &Input) -> Result<Vec<u8>, Error> {
        let path = match &input.origin {
            Origin::Path(path) => path.clone(),
            Origin::Artefact { package, file } => (self.resolver)(package, file).map_err(|error| {
                self.input_error(input, format!("{} is not there: {error:#}", input.written))
            })?,
        };
        let reason = |error| format!("cannot read {}: {error}; name another file", path.display());
        std::fs::read(&path).map_err(|error| self.input_error(input, reason(error)))
    }

    fn add(
        &self,
        images: &mut Images,
        kind: &'static str,
        input: &Input,
        bytes: &[u8],
    ) -> Result<ImageId, Error> {
        let too_large = || self.input_error(input, "the machine's images pass 4 GiB: make them smaller");
        images.add(kind, &input.written, bytes).ok_or_else(too_large)
    }

    fn input_error(&self, input: &Input, reason: impl Into<String>) -> Error {
        self.error(input.line, &input.key, reason)
    }

    fn error(&self, line: usize, key: impl Into<String>, reason: impl Into<String>) -> Error {
        Error { file: self.file.to_owned(), line, key: key.into(), reason: reason.into() }
    }
}

fn schedule(node: Node, schedule: &Schedule) -> Node {
    match *schedule {
        Schedule::Share { weight, cap_percent } => {
            node.str("schedule", "share").u32("weight", weight).u32("cap-percent", cap_percent)
        }
        Schedule::Reservation { budget_ns, period_ns, deadline_ns } => node
            .str("schedule", "reservation")
            .u64("budget-ns", budget_ns)
            .u64("period-ns", period_ns)
            .u64("deadline-ns", deadline_ns),
        Schedule::Exclusive => node.str("schedule", "exclusive"),
    }
}

/// Writes a size for people, rounded.
fn mib(bytes: u64) -> String {
    format!("{:.1}MiB", bytes as f64 / f64::from(1 << 20))
}
