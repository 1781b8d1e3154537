//! A VM: the bench guest's memory, GICv3 and vCPUs.

use core::convert::Infallible;
use core::ffi::CStr;

use crate::kvm::{self, CreateDevice, DeviceAttr, MemoryRegion, OneReg, VcpuInit};
use crate::sys::{self, Fd, INVALID, Result};
use crate::uart;

/// The most vCPUs of a VM.
pub const MAX_VCPUS: usize = 2;

/// Where RAM begins, with the device tree; where the image lies; and bytes of RAM.
const RAM: u64 = 0x4000_0000;
const IMAGE: usize = 0x8_0000;
const RAM_SIZE: usize = 16 << 20;

const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x080a_0000;

/// A VM that is ready to run.
pub struct Vm {
    vcpus: [Fd; MAX_VCPUS],
    count: usize,
    run_size: usize,
}

impl Vm {
    /// Makes a VM of an image and a device tree.
    pub fn new(count: usize, image: &CStr, tree: &CStr) -> Result<Self> {
        let kvm = sys::open(c"/dev/kvm", true)?;
        let vm = kvm.create(kvm::CREATE_VM, 0)?;
        let memory = sys::map(None, RAM_SIZE)?;
        // SAFETY: just mapped, and nothing else knows it.
        let bytes = unsafe { core::slice::from_raw_parts_mut(memory, RAM_SIZE) };
        sys::load(tree, &mut bytes[..IMAGE])?;
        sys::load(image, &mut bytes[IMAGE..])?;
        let (size, host) = (RAM_SIZE as u64, memory as u64);
        let mut region = MemoryRegion { slot: 0, flags: 0, guest: RAM, size, host };
        // SAFETY: the memory is the guest's from here on.
        unsafe { vm.control_with(kvm::SET_USER_MEMORY_REGION, &mut region) }?;

        let mut vcpus = [vm; MAX_VCPUS];
        for (index, vcpu) in vcpus[..count].iter_mut().enumerate() {
            *vcpu = vm.create(kvm::CREATE_VCPU, index)?;
        }
        create_gic(vm)?;
        let mut init = VcpuInit::default();
        // SAFETY: the request's structure.
        unsafe { vm.control_with(kvm::ARM_PREFERRED_TARGET, &mut init) }?;
        for (index, vcpu) in vcpus[..count].iter().enumerate() {
            init.features[0] = kvm::PSCI_0_2 | if index > 0 { kvm::POWER_OFF } else { 0 };
            // SAFETY: the request's structure.
            unsafe { vcpu.control_with(kvm::ARM_VCPU_INIT, &mut init) }?;
        }
        set_register(vcpus[0], kvm::PC, RAM + IMAGE as u64)?;
        set_register(vcpus[0], kvm::X0, RAM)?;
        let run_size = kvm.control(kvm::GET_VCPU_MMAP_SIZE, 0)?;
        if run_size < size_of::<kvm::Run>() {
            return Err(INVALID);
        }
        Ok(Self { vcpus, count, run_size })
    }

    /// Runs it, the first vCPU on this thread.
    pub fn run(self) -> Result<Infallible> {
        for vcpu in &self.vcpus[1..self.count] {
            sys::spawn(thread, vcpu.number() | self.run_size << 32)?;
        }
        run_vcpu(self.vcpus[0], self.run_size)
    }
}

/// Runs a vCPU: its descriptor in the lower half, the size of its `struct kvm_run` in the upper one.
extern "C" fn thread(argument: usize) -> ! {
    let _ = run_vcpu(Fd::from_number(argument & 0xffff_ffff), argument >> 32);
    sys::print("FAIL a vCPU\n");
    sys::exit(1)
}

fn run_vcpu(vcpu: Fd, run_size: usize) -> Result<Infallible> {
    let run = sys::map(Some(vcpu), run_size)?.cast::<kvm::Run>();
    loop {
        vcpu.control(kvm::RUN, 0)?;
        // SAFETY: `run` is the vCPU's structure, which has at least this size; between two RUNs it is this thread's.
        let exit = unsafe { &mut *run };
        let offset = exit.address.wrapping_sub(uart::BASE);
        match exit.exit_reason {
            kvm::EXIT_MMIO if offset < 0x1000 => uart::access(offset, &mut exit.data, exit.is_write != 0),
            _ => return Err(INVALID),
        }
    }
}

fn create_gic(vm: Fd) -> Result<()> {
    let mut device = CreateDevice { kind: kvm::VGIC_V3, fd: 0, flags: 0 };
    // SAFETY: the request's structure.
    unsafe { vm.control_with(kvm::CREATE_DEVICE, &mut device) }?;
    let gic = Fd::from_number(device.fd as usize);
    let (mut gicd, mut gicr) = (GICD, GICR);
    let attributes = [
        (kvm::VGIC_ADDRESSES, kvm::VGIC_DISTRIBUTOR, &raw mut gicd as u64),
        (kvm::VGIC_ADDRESSES, kvm::VGIC_REDISTRIBUTORS, &raw mut gicr as u64),
        (kvm::VGIC_CONTROL, kvm::VGIC_INIT, 0),
    ];
    for (group, attr, address) in attributes {
        let mut attribute = DeviceAttr { flags: 0, group, attr, address };
        // SAFETY: the request's structure; the address is of a number that outlives the call, which it may write to.
        unsafe { gic.control_with(kvm::SET_DEVICE_ATTR, &mut attribute) }?;
    }
    Ok(())
}

fn set_register(vcpu: Fd, id: u64, value: u64) -> Result<()> {
    let mut register = OneReg { id, address: &raw const value as u64 };
    // SAFETY: the request's structure; the value is read.
    unsafe { vcpu.control_with(kvm::SET_ONE_REG, &mut register) }.map(drop)
}
