//! Channels between VMs: a page that one owns and the other borrows, and who rings whose bell.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::fmt;

use bundle::VmConfig;
use lock::TicketMutex;
use stage2::{BLOCK, Extent, GrantError, Ipa, LendError, Owners, PAGE, Pa, PhysMem, PhysRange, Rights, VmId};
use vm::{Channel, bus};

use crate::guest::Guest;
use crate::log;
use crate::memory::{self, Mmu, Ram, TablePool};

/// The channel ends of a VM: first those whose page it lends.
pub fn of(config: &VmConfig<'_>) -> Vec<Channel> {
    let end = |borrowed| move |name: &str| Channel { name: name.to_owned(), borrowed };
    config.lends.iter().map(end(false)).chain(config.borrows.iter().map(end(true))).collect()
}

/// Why a VM has no channels of its own, or one of them no other end.
enum Error {
    Memory(GrantError),
    Lender(stage2::Error),
    Loan(LendError),
    Borrower(stage2::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "no memory for the page: {error:?}"),
            Self::Lender(error) => write!(f, "the lender's stage 2: {error:?}"),
            Self::Loan(error) => write!(f, "the page cannot be lent: {error:?}"),
            Self::Borrower(error) => write!(f, "the borrower's stage 2: {error:?}"),
        }
    }
}

/// Makes the pages of all channels and connects their ends. A channel of whose VMs one was refused has one end.
pub fn connect(guests: &mut [Guest], owners: &mut Owners, tables: &TicketMutex<TablePool>, ram: &Ram) {
    for lender in 0..guests.len() {
        let lends = guests[lender].config.lends;
        if lends.iter().next().is_none() {
            continue;
        }
        // A block, the least that can be owned, has room for all its pages.
        let block = match owners.grant(VmId(lender as u8), BLOCK) {
            Ok(pieces) => pieces[0],
            Err(error) => {
                log!("{}: no channels: {}", guests[lender], Error::Memory(error));
                continue;
            }
        };
        for (channel, name) in lends.iter().enumerate() {
            let page = PhysRange { start: Pa(block.start.0 + channel as u64 * PAGE), len: PAGE };
            if let Err(error) = connect_one(guests, (lender, channel), name, page, owners, tables, ram) {
                log!("channel {name}: {error}");
            }
        }
    }
}

/// Gives the lender the page of one channel and lends it to the borrower, if there is one.
fn connect_one(
    guests: &mut [Guest],
    (lender, channel): (usize, usize),
    name: &str,
    page: PhysRange,
    owners: &mut Owners,
    tables: &TicketMutex<TablePool>,
    mut ram: &Ram,
) -> Result<(), Error> {
    let mut mmu = Mmu::new(tables);
    let ipa = |channel| Ipa(bus::channel_page(channel).start);
    ram.zero(page.start, page.len as usize);
    ram.clean_to_poc(page.start, page.len as usize);
    let extent = Extent::ram(ipa(channel), page.start, page.len);
    memory::add(&mut guests[lender].stage2.lock(), &mut mmu, extent).map_err(Error::Lender)?;
    let borrows = |guest: &Guest| guest.vm.config.channels.iter().position(|c| c.borrowed && c.name == name);
    let end = guests.iter().enumerate().find_map(|(index, guest)| Some((index, borrows(guest)?)));
    let Some((borrower, end)) = end else { return Ok(()) };
    let mut stage2 = guests[borrower].stage2.lock();
    let rights = Rights::READ.union(Rights::WRITE);
    owners.lend(VmId(lender as u8), page, &mut stage2, ipa(end), rights, false).map_err(Error::Loan)?;
    memory::populate(&mut stage2, &mut mmu, ipa(end)).map_err(Error::Borrower)?;
    drop(stage2);
    guests[lender].peers[channel] = Some((borrower, end));
    guests[borrower].peers[end] = Some((lender, channel));
    Ok(())
}
