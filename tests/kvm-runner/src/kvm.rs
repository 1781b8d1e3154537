//! KVM's interface on arm64 (Linux, Documentation/virt/kvm/api.rst and include/uapi/linux/kvm.h).

pub const CREATE_VM: usize = 0xae01;
pub const GET_VCPU_MMAP_SIZE: usize = 0xae04;
pub const CREATE_VCPU: usize = 0xae41;
pub const SET_USER_MEMORY_REGION: usize = 0x4020_ae46;
pub const RUN: usize = 0xae80;
pub const SET_ONE_REG: usize = 0x4010_aeac;
pub const ARM_VCPU_INIT: usize = 0x4020_aeae;
pub const ARM_PREFERRED_TARGET: usize = 0x8020_aeaf;
pub const CREATE_DEVICE: usize = 0xc00c_aee0;
pub const SET_DEVICE_ATTR: usize = 0x4018_aee1;

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
pub struct MemoryRegion {
    pub slot: u32,
    pub flags: u32,
    pub guest: u64,
    pub size: u64,
    pub host: u64,
}

/// `struct kvm_vcpu_init`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct VcpuInit {
    pub target: u32,
    pub features: [u32; 7],
}

/// Features of a vCPU: it starts by PSCI; it has PSCI.
pub const POWER_OFF: u32 = 1 << 0;
pub const PSCI_0_2: u32 = 1 << 2;

/// `struct kvm_one_reg`.
#[repr(C)]
pub struct OneReg {
    pub id: u64,
    pub address: u64,
}

/// Core registers: X0 and PC.
pub const X0: u64 = 0x6030_0000_0010_0000;
pub const PC: u64 = 0x6030_0000_0010_0040;

/// `struct kvm_create_device`.
#[repr(C)]
pub struct CreateDevice {
    pub kind: u32,
    pub fd: u32,
    pub flags: u32,
}

/// `struct kvm_device_attr`.
#[repr(C)]
pub struct DeviceAttr {
    pub flags: u32,
    pub group: u32,
    pub attr: u64,
    pub address: u64,
}

/// The GICv3 (Documentation/virt/kvm/devices/arm-vgic-v3.rst): the device, its groups of attributes, and those.
pub const VGIC_V3: u32 = 7;
pub const VGIC_ADDRESSES: u32 = 0;
pub const VGIC_CONTROL: u32 = 4;
pub const VGIC_DISTRIBUTOR: u64 = 2;
pub const VGIC_REDISTRIBUTORS: u64 = 3;
pub const VGIC_INIT: u64 = 0;

/// `struct kvm_run`, as far as it is used: why RUN returned, and the access of an MMIO exit.
#[repr(C)]
pub struct Run {
    _before: [u8; 8],
    pub exit_reason: u32,
    _between: [u8; 20],
    pub address: u64,
    pub data: [u8; 8],
    pub len: u32,
    pub is_write: u8,
}

/// The exit for an access to what is no memory.
pub const EXIT_MMIO: u32 = 6;
