//! A producer and a consumer in two VMs: samples go through a channel of MobiVMM's, and a pin of it leads back, by which
//! the consumer acknowledges each hundred.
//!
//! Both VMs run this program; the first in the machine file produces. Without a hypervisor, or without the channel `samples`,
//! it is both.
//!
//! ```text
//! producer | producer: 100 samples acknowledged
//! consumer | consumer: 100 samples, 0 lost
//! ```
#![cfg_attr(target_os = "none", no_std, no_main)]

use embedded_hal::digital::StatefulOutputPin;
use embedded_io::{Read, Write};
use mobi_rtos::pv::channel::{Channel, Local};
use mobi_rtos::pv::gpio::Input;
use mobi_rtos::time::{self, ExtU64};
use mobi_rtos::{Priority, Task, println};

/// Samples that are acknowledged together.
const BLOCK: u32 = 100;
/// The line by which they are.
const ACKNOWLEDGE: u32 = 0;

static PRODUCE: Task<4096> = Task::new();
static ACKNOWLEDGED: Task<8192> = Task::new();
static CONSUME: Task<8192> = Task::new();

mobi_rtos::app!(start);

/// Runs before the scheduler starts.
fn start() {
    static LOCAL: Local = Local::new();
    let (producer, consumer) = match Channel::open("samples") {
        Some(end) if end.is_first() => (Some(end), None),
        Some(end) => (None, Some(end)),
        None => LOCAL.ends().map_or((None, None), |(first, second)| (Some(first), Some(second))),
    };
    if let Some(end) = producer {
        let (_, writer, lines) = end.split();
        let acknowledge = lines.input(ACKNOWLEDGE);
        PRODUCE.spawn("produce", Priority::new(1), || produce(writer)).expect("priority 1 is free");
        ACKNOWLEDGED
            .spawn("acknowledged", Priority::new(10), move || acknowledged(&acknowledge))
            .expect("priority 10 is free");
    }
    if let Some(end) = consumer {
        CONSUME.spawn("consume", Priority::new(2), || consume(end)).expect("priority 2 is free");
    }
}

/// Sends a number every millisecond.
fn produce(mut channel: impl Write) {
    let mut release = time::now();
    for sample in 0_u32.. {
        // A channel has no errors.
        let _ = channel.write_all(&sample.to_le_bytes());
        release += 1.millis();
        time::delay_until(release);
    }
}

/// Prints a line whenever the consumer turns the pin.
fn acknowledged(pin: &Input) {
    let mut high = pin.level();
    for block in 1.. {
        high = !high;
        pin.wait_for(high);
        println!("producer: {} samples acknowledged", block * BLOCK);
    }
}

/// Checks that the numbers come in order, and turns the pin after each hundred.
fn consume(channel: Channel) {
    let (mut reader, _, lines) = channel.split();
    let mut pin = lines.output(ACKNOWLEDGE);
    let (mut count, mut lost, mut next) = (0_u32, 0_u32, None);
    let mut bytes = [0; 4];
    while reader.read_exact(&mut bytes).is_ok() {
        let sample = u32::from_le_bytes(bytes);
        lost = lost.wrapping_add(sample.wrapping_sub(next.unwrap_or(sample)));
        next = Some(sample.wrapping_add(1));
        count += 1;
        if count.is_multiple_of(BLOCK) {
            println!("consumer: {count} samples, {lost} lost");
            // A pin of a channel has no errors.
            let _ = pin.toggle();
        }
    }
}
