use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Item {
    Bytes(Channel, Vec<u8>),
    Credit(Channel, usize),
    Sync,
}

fn channel() -> impl Strategy<Value = Channel> {
    (0..=MAX_VMS).prop_map(Channel)
}

/// Bytes with many escapes among them.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(DLE), 0x40..0x44u8, 0x80..0x84u8, Just(SYNC), any::<u8>()], 0..24)
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        4 => (channel(), payload()).prop_map(|(c, b)| Item::Bytes(c, b)),
        2 => (channel(), 1..600usize).prop_map(|(c, n)| Item::Credit(c, n)),
        1 => Just(Item::Sync),
    ]
}

fn encode(encoder: &mut Encoder, items: &[Item]) -> Vec<u8> {
    let mut wire = Vec::new();
    for item in items {
        match item {
            Item::Bytes(channel, bytes) => encoder.bytes(*channel, bytes, |b| wire.push(b)),
            Item::Credit(channel, count) => encoder.credit(*channel, *count, |b| wire.push(b)),
            Item::Sync => encoder.sync(|b| wire.push(b)),
        }
    }
    wire
}

/// The events in a canonical form: single bytes, neighbouring credits of one channel summed up.
fn expected(items: &[Item]) -> Vec<(Option<Channel>, usize, bool)> {
    let mut all = Vec::new();
    for item in items {
        match item {
            Item::Bytes(channel, bytes) => {
                all.extend(bytes.iter().map(|&b| (Some(*channel), usize::from(b), false)))
            }
            Item::Credit(channel, count) => push_credit(&mut all, *channel, *count),
            Item::Sync => all.push((None, 0, false)),
        }
    }
    all
}

fn push_credit(all: &mut Vec<(Option<Channel>, usize, bool)>, channel: Channel, count: usize) {
    match all.last_mut() {
        Some((Some(last), sum, true)) if *last == channel => *sum += count,
        _ => all.push((Some(channel), count, true)),
    }
}

fn decode(decoder: &mut Decoder, wire: &[u8]) -> Vec<(Option<Channel>, usize, bool)> {
    let mut all = Vec::new();
    for event in wire.iter().filter_map(|&b| decoder.push(b)) {
        match event {
            Event::Byte { channel, byte } => all.push((Some(channel), usize::from(byte), false)),
            Event::Credit { channel, count } => push_credit(&mut all, channel, usize::from(count)),
            Event::Sync => all.push((None, 0, false)),
            Event::End { success } => all.push((None, 1 + usize::from(success), false)),
        }
    }
    all
}

proptest! {
    #[test]
    fn any_interleaving_round_trips(items in prop::collection::vec(item(), 0..40)) {
        let wire = encode(&mut Encoder::default(), &items);
        prop_assert_eq!(decode(&mut Decoder::default(), &wire), expected(&items));
    }

    #[test]
    fn garbage_never_panics_and_the_next_select_is_in_step_again(
        garbage in prop::collection::vec(prop_oneof![Just(DLE), any::<u8>()], 0..200),
        items in prop::collection::vec(item(), 0..20),
    ) {
        let mut decoder = Decoder::default();
        decode(&mut decoder, &garbage);
        // A lone DLE at the end would make the first DLE of the select a literal: a zero settles that.
        decoder.push(0);
        let wire = encode(&mut Encoder::default(), &items);
        prop_assert_eq!(decode(&mut decoder, &wire), expected(&items));
    }
}

#[test]
fn the_wire_format_is_the_documented_one() {
    let vm1 = Channel::vm(1).unwrap();
    let items = [
        Item::Bytes(Channel::LOG, b"ab".to_vec()),
        Item::Bytes(vm1, vec![b'x', DLE, b'y']),
        Item::Bytes(vm1, b"z".to_vec()),
        Item::Credit(vm1, 16),
        Item::Credit(Channel::vm(0).unwrap(), 256),
        Item::Sync,
    ];
    let wire = encode(&mut Encoder::default(), &items);
    let want: &[u8] =
        b"\x10\x40ab\x10\x42x\x10\x10yz\x10\x82\x0f\x10\x82\x01\x10\x81\xff\x10\x81\x01\x10\xc0";
    assert_eq!(wire, want);
}

#[test]
fn the_end_says_how_it_came() {
    for (success, code) in [(true, 0xC1), (false, 0xC2)] {
        let mut wire = Vec::new();
        Encoder::default().end(success, |byte| wire.push(byte));
        assert_eq!(wire, [DLE, code]);
        let mut decoder = Decoder::default();
        assert_eq!(
            wire.iter().filter_map(|&b| decoder.push(b)).collect::<Vec<_>>(),
            [Event::End { success }]
        );
    }
}

#[test]
fn plain_text_before_the_first_select_is_the_log() {
    let mut decoder = Decoder::default();
    assert_eq!(decoder.push(b'M'), Some(Event::Byte { channel: Channel::LOG, byte: b'M' }));
}

#[test]
fn unknown_escapes_and_void_credits_are_dropped() {
    let known = |c: u8| {
        c == DLE
            || (0x40..=0x7E).contains(&c)
            || (0x80..=0xBE).contains(&c)
            || (SYNC..=END_FAILURE).contains(&c)
    };
    for code in (0..=255).filter(|&c| !known(c)) {
        assert_eq!(decode(&mut Decoder::default(), &[DLE, code, b'a']), [(Some(Channel::LOG), 0x61, false)]);
    }
    assert_eq!(decode(&mut Decoder::default(), b"\x10\x81\0a"), [(Some(Channel::LOG), 0x61, false)]);
}

#[test]
fn channels_end_at_the_last_vm_that_the_escape_can_name() {
    assert_eq!(Channel::vm(61).map(Channel::index), Some(62));
    assert_eq!(Channel::vm(62), None);
    assert_eq!(Channel::vm(61).and_then(Channel::vm_index), Some(61));
    assert_eq!(Channel::LOG.vm_index(), None);
}
