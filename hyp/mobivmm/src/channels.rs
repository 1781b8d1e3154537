//! Channels between VMs: a page of EL2's that both see, and who rings whose bell.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use bundle::VmConfig;
use lock::TicketMutex;
use stage2::{Extent, Ipa, Pa, Rights};
use vm::{Channel, bus};

use crate::guest::Guest;
use crate::memory::TablePool;

/// A VM's place among the guests, and a channel of its.
type End = (usize, usize);

/// The ends that a new VM has, by its configuration and `earlier` VMs'.
pub fn of(config: &VmConfig<'_>, earlier: &[&Guest]) -> Vec<Channel> {
    let end = |name: &str| Channel { name: name.to_owned(), end: find(name, earlier).is_some().into() };
    config.channels.iter().map(end).collect()
}

/// The pages of a new VM's channels: those of the other ends, and cleared ones where there is none yet. None if EL2 has no
/// page left.
pub fn pages(channels: &[Channel], earlier: &[&Guest], tables: &TicketMutex<TablePool>) -> Option<Vec<Pa>> {
    let page = |channel: &Channel| match find(&channel.name, earlier) {
        Some((guest, channel)) => earlier[guest].pages.channels.get(channel).copied(),
        None => Some(Pa(tables.lock().page()?.range().start)),
    };
    channels.iter().map(page).collect()
}

/// What a VM sees of its channels' pages.
pub fn extents(pages: &[Pa]) -> impl Iterator<Item = Extent> {
    pages.iter().enumerate().map(|(channel, &page)| {
        let range = bus::channel_page(channel);
        let rights = Rights::READ.union(Rights::WRITE);
        Extent { rights, ..Extent::shown(Ipa(range.start), page, range.end - range.start) }
    })
}

/// By guest and channel: the guest at the other end, if there is one, and its channel.
pub fn peers(guests: &[&'static Guest]) -> Vec<Vec<Option<(&'static Guest, usize)>>> {
    let peer = |me: usize, name: &str| {
        let mut others = guests.iter().enumerate().filter(|&(other, _)| other != me);
        others.find_map(|(_, guest)| Some((*guest, position(name, guest)?)))
    };
    let of_guest = |(me, guest): (usize, &&'static Guest)| {
        guest.vm.config.channels.iter().map(|channel| peer(me, &channel.name)).collect()
    };
    guests.iter().enumerate().map(of_guest).collect()
}

/// The end of the channel `name` among the guests.
fn find(name: &str, guests: &[&Guest]) -> Option<End> {
    guests.iter().enumerate().find_map(|(index, guest)| Some((index, position(name, guest)?)))
}

fn position(name: &str, guest: &Guest) -> Option<usize> {
    guest.vm.config.channels.iter().position(|channel| channel.name == name)
}
