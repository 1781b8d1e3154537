//! The register faces, register by register.

use mobivmm_vgic::{
    BadConfig, Config, GICR_STRIDE, Posted, Sgi, SgiRegister, VcpuSet, Version, Vgic, affinity, listed_word,
};

fn v2(vcpus: usize) -> Vgic {
    Vgic::new(Config { version: Version::V2, vcpus, spis: 96, list_registers: 4 }).unwrap()
}

fn v3(vcpus: usize) -> Vgic {
    Vgic::new(Config { version: Version::V3, vcpus, spis: 96, list_registers: 4 }).unwrap()
}

/// Offset of a register in the SGI frame of a vCPU.
fn sgi_frame(vcpu: u64, register: u64) -> u64 {
    vcpu * GICR_STRIDE + 0x1_0000 + register
}

#[test]
fn configurations_out_of_range_are_refused() {
    let config = Config { version: Version::V2, vcpus: 8, spis: 988, list_registers: 16 };
    assert!(Vgic::new(config).is_ok());
    assert!(Vgic::new(Config { version: Version::V3, vcpus: 64, spis: 0, list_registers: 1 }).is_ok());
    for bad in [
        Config { vcpus: 9, ..config },
        Config { vcpus: 0, ..config },
        Config { spis: 989, ..config },
        Config { list_registers: 0, ..config },
        Config { list_registers: 17, ..config },
        Config { version: Version::V3, vcpus: 65, ..config },
    ] {
        assert_eq!(Vgic::new(bad), Err(BadConfig));
    }
}

#[test]
fn identification() {
    let (two, three) = (v2(3), v3(3));
    assert_eq!(two.gicd_read(0, 0x004, 4), 2 << 5 | 3, "3 CPUs, 128 INTIDs");
    assert_eq!(three.gicd_read(0, 0x004, 4), 9 << 19 | 3, "10 INTID bits, 128 INTIDs");
    for vgic in [&two, &three] {
        assert_eq!(vgic.gicd_read(0, 0x008, 4), 0x4d00_043b);
    }
    assert_eq!(two.gicd_read(0, 0xfe8, 4) >> 4 & 0xf, 2);
    assert_eq!(three.gicd_read(0, 0xffe8, 4) >> 4 & 0xf, 3);
    assert_eq!(three.gicr_read(GICR_STRIDE + 0xffe8, 4) >> 4 & 0xf, 3);
    assert_eq!(three.gicr_read(0x004, 4), 0x4d00_043b);
    assert_eq!(two.gicd_read(0, 0xffe8, 4), 0, "GICv2's distributor has 4 KiB");
}

#[test]
fn redistributors_tell_affinity_and_which_is_last() {
    let vgic = v3(18);
    assert_eq!(vgic.gicr_read(0x008, 8), 0);
    let typer = vgic.gicr_read(17 * GICR_STRIDE + 0x008, 8);
    assert_eq!(typer, 0x0101 << 32 | 17 << 8 | 1 << 4);
    assert_eq!(vgic.gicr_read(17 * GICR_STRIDE + 0x00c, 4), 0x0101);
    assert_eq!(vgic.gicr_read(17 * GICR_STRIDE + 0x008, 4), 17 << 8 | 1 << 4);
    assert_eq!(vgic.gicr_read(18 * GICR_STRIDE + 0x008, 8), 0, "there is no vCPU 18");
    assert_eq!((affinity(0), affinity(15), affinity(16), affinity(63)), (0, 15, 0x100, 0x30f));
}

#[test]
fn waker_handshake() {
    let mut vgic = v3(2);
    let waker = GICR_STRIDE + 0x014;
    assert_eq!(vgic.gicr_read(waker, 4), 0b110);
    let _ = vgic.gicr_write(waker, 4, 0);
    assert_eq!(vgic.gicr_read(waker, 4), 0);
    assert_eq!(vgic.gicr_read(0x014, 4), 0b110, "the other one still sleeps");
    let _ = vgic.gicr_write(waker, 4, 0b010);
    assert_eq!(vgic.gicr_read(waker, 4), 0b110);
}

#[test]
fn lpi_registers_are_raz_wi() {
    let mut vgic = v3(1);
    for register in [0x000, 0x070, 0x078] {
        let _ = vgic.gicr_write(register, if register == 0 { 4 } else { 8 }, !0);
        assert_eq!(vgic.gicr_read(register, 8), 0);
    }
}

#[test]
fn control_register() {
    let (mut two, mut three) = (v2(2), v3(2));
    let effects = two.gicd_write(0, 0x000, 4, !0);
    assert_eq!(effects.kick, VcpuSet(0b11), "every vCPU is concerned");
    assert_eq!(two.gicd_write(0, 0x000, 4, 3).kick, VcpuSet::EMPTY);
    assert_eq!(two.gicd_read(0, 0x000, 4), 3);
    assert_eq!(three.gicd_read(0, 0x000, 4), 0x50, "ARE and DS, RWP 0");
    let _ = three.gicd_write(0, 0x000, 4, 0x80);
    assert_eq!(three.gicd_read(0, 0x000, 4), 0x50);
    let _ = three.gicd_write(0, 0x000, 4, 0x12);
    assert_eq!(three.gicd_read(0, 0x000, 4), 0x52);
}

#[test]
fn private_registers_are_where_the_version_has_them() {
    let mut two = v2(2);
    let _ = two.gicd_write(1, 0x100, 4, 1 << 27);
    assert_eq!(two.gicd_read(1, 0x100, 4), 1 << 27 | 0xffff);
    assert_eq!(two.gicd_read(0, 0x100, 4), 0xffff, "banked");

    let mut three = v3(2);
    let _ = three.gicd_write(1, 0x100, 4, 1 << 27);
    assert_eq!(three.gicd_read(1, 0x100, 4), 0, "RAZ/WI with affinity routing");
    let _ = three.gicr_write(sgi_frame(1, 0x100), 4, 1 << 27);
    assert_eq!(three.gicr_read(sgi_frame(1, 0x180), 4), 1 << 27);
    assert_eq!(three.gicr_read(sgi_frame(0, 0x100), 4), 0);
    let _ = three.gicr_write(sgi_frame(1, 0x104), 4, !0);
    assert_eq!(three.gicd_read(0, 0x104, 4), 0, "a redistributor has no SPIs");
}

#[test]
fn bit_registers_set_and_clear() {
    for mut vgic in [v2(2), v3(2)] {
        for (set, clear) in [(0x104, 0x184), (0x204, 0x284), (0x304, 0x384)] {
            let _ = vgic.gicd_write(0, set, 4, 0xff0);
            let _ = vgic.gicd_write(0, clear, 4, 0x0f0);
            assert_eq!((vgic.gicd_read(0, set, 4), vgic.gicd_read(0, clear, 4)), (0xf00, 0xf00));
        }
        let _ = vgic.gicd_write(0, 0x084, 4, 0x1234_5678);
        assert_eq!(vgic.gicd_read(0, 0x084, 4), 0x1234_5678);
    }
}

#[test]
fn level_lines_and_the_latch_are_apart() {
    let mut vgic = v2(1);
    let pending = |vgic: &Vgic| vgic.gicd_read(0, 0x204, 4);
    let _ = vgic.line(0, 33, true);
    assert_eq!(pending(&vgic), 2);
    let _ = vgic.gicd_write(0, 0x284, 4, 2);
    assert_eq!(pending(&vgic), 2, "ICPENDR does not lower a line");
    let _ = vgic.gicd_write(0, 0x204, 4, 2);
    let _ = vgic.line(0, 33, false);
    assert_eq!(pending(&vgic), 2, "the latch remains");
    let _ = vgic.gicd_write(0, 0x284, 4, 2);
    assert_eq!(pending(&vgic), 0);

    let _ = vgic.gicd_write(0, 0xc08, 4, 0b10 << 2);
    let _ = vgic.line(0, 33, true);
    let _ = vgic.line(0, 33, false);
    assert_eq!(pending(&vgic), 2, "an edge stays");
    let _ = vgic.gicd_write(0, 0x284, 4, 2);
    assert_eq!(pending(&vgic), 0);
}

#[test]
fn configuration() {
    for mut vgic in [v2(1), v3(1)] {
        let _ = vgic.gicd_write(0, 0xc0c, 4, 0x8421_a5ff);
        assert_eq!(vgic.gicd_read(0, 0xc0c, 4), 0x8020_a0aa, "only the upper bit of each pair exists");
        assert_eq!(vgic.gicd_read(0, 0xc08, 4), 0);
    }
    let mut two = v2(1);
    let _ = two.gicd_write(0, 0xc00, 4, 0);
    assert_eq!(two.gicd_read(0, 0xc00, 4), 0xaaaa_aaaa, "SGIs are edges");
    let mut three = v3(1);
    let _ = three.gicr_write(sgi_frame(0, 0xc04), 4, 0x8000_0000);
    assert_eq!(three.gicr_read(sgi_frame(0, 0xc04), 4), 0x8000_0000);
}

#[test]
fn priorities_have_five_bits_and_byte_access() {
    let mut vgic = v3(1);
    let _ = vgic.gicd_write(0, 0x424, 4, 0xff87_60a1);
    assert_eq!(vgic.gicd_read(0, 0x424, 4), 0xf880_60a0);
    assert_eq!(vgic.gicd_read(0, 0x427, 1), 0xf8);
    let _ = vgic.gicd_write(0, 0x425, 1, 0x1ff);
    assert_eq!(vgic.gicd_read(0, 0x424, 4), 0xf880_f8a0);
    for (offset, size) in [(0x424, 2), (0x424, 8), (0x425, 4), (0x424, 3), (0x424, 0)] {
        let _ = vgic.gicd_write(0, offset, size, 0);
        assert_eq!(vgic.gicd_read(0, offset, size), 0);
    }
    assert_eq!(vgic.gicd_read(0, 0x424, 4), 0xf880_f8a0);
}

#[test]
fn wrong_sizes_are_raz_wi() {
    let mut vgic = v3(1);
    for size in [1, 2, 8] {
        let _ = vgic.gicd_write(0, 0x108, size, !0);
        assert_eq!(vgic.gicd_read(0, 0x000, size), 0);
    }
    assert_eq!(vgic.gicd_read(0, 0x108, 4), 0);
    assert_eq!(vgic.gicr_read(0x00a, 2), 0);
    let _ = vgic.gicd_write(0, 0x6100, 2, 1);
    assert_eq!(vgic.gicd_read(0, 0x6100, 8), 0);
}

#[test]
fn interrupts_that_do_not_exist_are_raz_wi() {
    let mut vgic = v2(2);
    for (offset, size) in [(0x110, 4), (0x480, 4), (0x880, 4), (0xc20, 4)] {
        let _ = vgic.gicd_write(0, offset, size, !0);
        assert_eq!(vgic.gicd_read(0, offset, size), 0);
    }
    let mut full =
        Vgic::new(Config { version: Version::V3, vcpus: 1, spis: 988, list_registers: 4 }).unwrap();
    assert_eq!(full.gicd_read(0, 0x004, 4) & 0x1f, 31);
    for offset in [0x17c, 0x7fc, 0xcfc] {
        let _ = full.gicd_write(0, offset, 4, !0);
    }
    assert_eq!(full.gicd_read(0, 0x17c, 4), 0x0fff_ffff);
    assert_eq!(full.gicd_read(0, 0x7fc, 4), 0);
    assert_eq!(full.gicd_read(0, 0xcfc, 4), 0x00aa_aaaa);
    let _ = full.gicd_write(0, 0x6000 + 8 * 1020, 8, 5);
    assert_eq!(full.gicd_read(0, 0x6000 + 8 * 1020, 8), 0);
    let _ = full.gicd_write(0, 0x6000 + 8 * 1019, 8, 5);
    assert_eq!(full.gicd_read(0, 0x6000 + 8 * 1019, 8), 5);
}

#[test]
fn gicv2_targets() {
    let mut vgic = v2(2);
    assert_eq!(vgic.gicd_read(1, 0x800, 4), 0x0202_0202, "SGIs and PPIs: the reader");
    assert_eq!(vgic.gicd_read(0, 0x81f, 1), 0x01);
    let _ = vgic.gicd_write(0, 0x800, 4, 0);
    assert_eq!(vgic.gicd_read(0, 0x800, 4), 0x0101_0101);
    assert_eq!(vgic.gicd_read(0, 0x820, 4), 0);
    let _ = vgic.gicd_write(0, 0x820, 4, 0xff02_0301);
    assert_eq!(vgic.gicd_read(0, 0x820, 4), 0x0302_0301, "only CPUs that there are");
    let _ = vgic.gicd_write(0, 0x822, 1, 1);
    assert_eq!(vgic.gicd_read(0, 0x820, 4), 0x0301_0301);

    let mut single = v2(1);
    let _ = single.gicd_write(0, 0x820, 4, !0);
    assert_eq!(single.gicd_read(0, 0x820, 4), 0);
    let _ = single.gicd_write(0, 0x000, 4, 1);
    let _ = single.gicd_write(0, 0x104, 4, 1);
    assert_eq!(single.line(0, 32, true).kick, VcpuSet::one(0), "a uniprocessor gets all SPIs");
}

#[test]
fn gicv3_routes() {
    let mut vgic = v3(18);
    let _ = vgic.gicd_write(0, 0x000, 4, 2);
    let _ = vgic.gicd_write(0, 0x084, 4, !0);
    let _ = vgic.gicd_write(0, 0x104, 4, !0);
    let route = |n: u64| 0x6000 + 8 * n;
    let _ = vgic.gicd_write(0, route(33), 8, 0x0101);
    assert_eq!(vgic.line(0, 33, true).kick, VcpuSet::one(17));
    assert_eq!(vgic.line(0, 34, true).kick, VcpuSet::one(0), "reset value");
    let _ = vgic.gicd_write(0, route(35), 8, 0xff_0001_0000);
    assert_eq!(vgic.gicd_read(0, route(35), 8), 0x0001_0000, "Aff3 is RES0");
    assert_eq!(vgic.line(0, 35, true).kick, VcpuSet::EMPTY, "no such affinity");
    assert_eq!(vgic.gicd_write(0, route(35), 8, 3).kick, VcpuSet::one(3), "pending still");
    let _ = vgic.gicd_write(0, route(36), 4, 0x8000_0000);
    let _ = vgic.gicd_write(0, route(36) + 4, 4, 0xff);
    assert_eq!(vgic.gicd_read(0, route(36), 8), 0x8000_0000);
    assert_eq!(vgic.gicd_read(0, route(36), 4), 0x8000_0000);
    let _ = vgic.gicd_write(0, route(31), 8, 1);
    assert_eq!(vgic.gicd_read(0, route(31), 8), 0, "SGIs and PPIs are not routed");
}

#[test]
fn one_of_n_goes_to_a_vcpu_that_takes_part() {
    let mut vgic = v3(3);
    let _ = vgic.gicd_write(0, 0x000, 4, 1);
    let _ = vgic.gicd_write(0, 0x104, 4, !0);
    let _ = vgic.gicd_write(0, 0x6100, 8, 0x8000_0000);
    for vcpu in [1, 2] {
        let _ = vgic.set_online(vcpu, true);
        let _ = vgic.gicr_write(vcpu as u64 * GICR_STRIDE + 0x14, 4, 0);
    }
    assert_eq!(vgic.line(0, 32, true).kick, VcpuSet::one(1), "vCPU 0's redistributor sleeps");
    assert_eq!(vgic.set_online(1, false).kick, VcpuSet::one(2));
    assert_eq!(vgic.gicr_write(0x14, 4, 0).kick, VcpuSet::one(0));
}

#[test]
fn gicv2_sgis_reach_those_meant_and_tell_the_sender() {
    let mut vgic = v2(3);
    let _ = vgic.gicd_write(0, 0x000, 4, 1);
    let sgir = |filter: u64, list: u64, sgi: u64| filter << 24 | list << 16 | sgi;
    let posted: [Posted; 3] = Default::default();
    let send = |from, value| {
        let sgi = Sgi::from_sgir(value, from, 3);
        sgi.targets.iter().for_each(|to| posted[to].post(sgi));
        sgi.targets
    };
    assert_eq!(send(0, sgir(0, 0b1110, 3)), VcpuSet(0b110));
    assert_eq!(send(1, sgir(1, 0, 4)), VcpuSet(0b101));
    assert_eq!(send(2, sgir(2, 0, 3)), VcpuSet(0b100));
    assert_eq!(send(2, sgir(3, 0xff, 5)), VcpuSet::EMPTY);
    assert_eq!(vgic.gicd_read(2, 0xf20, 4), 0, "nobody has told it");
    vgic.absorb(2, &posted[2]);
    assert_eq!(vgic.gicd_read(2, 0xf20, 4), 0b101 << 24);
    assert_eq!(vgic.gicd_read(2, 0xf14, 1), 0b010);
    assert_eq!(vgic.gicd_read(2, 0x200, 4), 0b1_1000);
    let _ = vgic.gicd_write(2, 0x280, 4, !0);
    assert_eq!(vgic.gicd_read(2, 0x200, 4), 0b1_1000, "ICPENDR0 has no say in SGIs");
    let _ = vgic.gicd_write(2, 0xf13, 1, 0b001);
    assert_eq!(vgic.gicd_read(2, 0xf10, 4), 0b100 << 24);
    let _ = vgic.gicd_write(2, 0xf10, 4, !0);
    assert_eq!(vgic.gicd_read(2, 0x200, 4), 0b1_0000);
    let _ = vgic.gicd_write(2, 0xf20, 1, 0xff);
    assert_eq!(vgic.gicd_read(2, 0xf10, 1), 0b111);
}

#[test]
fn gicv3_sgis_reach_those_meant() {
    let mut vgic = v3(18);
    let _ = vgic.gicd_write(0, 0x000, 4, 3);
    for vcpu in 0..18 {
        let _ = vgic.gicr_write(sgi_frame(vcpu, 0x100), 4, 0xffff);
        let _ = vgic.gicr_write(sgi_frame(vcpu, 0x080), 4, 0x7fff);
    }
    let posted: Vec<_> = (0..18).map(|_| Posted::default()).collect();
    let send = |register, value| {
        let sgi = Sgi::from_register(register, value, 1, 18);
        sgi.targets.iter().for_each(|to| posted[to].post(sgi));
        sgi.targets
    };
    use SgiRegister::*;
    assert_eq!(send(Sgi1r, 3 << 24 | 0b1_0010), VcpuSet(0b1_0010));
    assert_eq!(send(Sgi1r, 3 << 24 | 1 << 16 | 0xffff), VcpuSet(0b11 << 16), "Aff1 = 1");
    assert_eq!(send(Sgi1r, 3 << 24 | 1 << 40), VcpuSet(0x3_fffd), "all but self");
    for elsewhere in [1 << 32, 1 << 44, 1 << 48, 200 << 16] {
        assert_eq!(send(Sgi1r, elsewhere | 3 << 24 | 1), VcpuSet::EMPTY);
    }
    let mut arrives = |register, to: usize, sgi: u64| {
        posted[to].clear();
        assert_eq!(send(register, sgi << 24 | 1 << to), VcpuSet::one(to));
        vgic.absorb(to, &posted[to]);
        let frame = sgi_frame(to as u64, 0x280);
        let pending = vgic.gicr_read(frame, 4);
        let _ = vgic.gicr_write(frame, 4, !0);
        pending == 1 << sgi
    };
    assert!(arrives(Sgi1r, 0, 3) && !arrives(Sgi0r, 0, 3) && !arrives(Asgi1r, 0, 3), "SGI 3 is in Group 1");
    assert!(
        !arrives(Sgi1r, 0, 15) && arrives(Sgi0r, 0, 15) && arrives(Asgi1r, 1, 15),
        "SGI 15 is in Group 0"
    );
    vgic.absorb(17, &posted[17]);
    assert_eq!(vgic.gicr_read(sgi_frame(17, 0x200), 4), 1 << 3);
    let _ = vgic.gicr_write(sgi_frame(17, 0x280), 4, 1 << 3);
    assert_eq!(vgic.gicr_read(sgi_frame(17, 0x200), 4), 0);
    let _ = vgic.gicr_write(sgi_frame(17, 0x200), 4, 1 << 5);
    assert_eq!(vgic.gicr_read(sgi_frame(17, 0x280), 4), 1 << 5);
}

#[test]
fn a_gicv2_has_no_redistributors() {
    let mut vgic = v2(2);
    let before = vgic.clone();
    let _ = vgic.gicr_write(sgi_frame(0, 0x100), 4, !0);
    assert_eq!(vgic, before);
    assert_eq!(vgic.gicr_read(0x008, 8), 0);
}

#[test]
fn state_registers_need_folded_list_registers() {
    for (offset, word) in [(0x200, 0), (0x284, 1), (0x3fc, 31), (0xf10, 0), (0xf2c, 0), (0x1_0200, 0)] {
        assert_eq!(listed_word(offset), Some(word));
    }
    for offset in [0x000, 0x100, 0x1fc, 0x400, 0xc00, 0xf00, 0xf30, 0x6200, 0x1_0100] {
        assert_eq!(listed_word(offset), None);
    }
}
