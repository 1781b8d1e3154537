//! Who owns physical memory, and to whom it is lent.
//!
//! Every page is free or belongs to one VM. A VM may lend pages of its own to one other VM at a time, with rights, and
//! keeps its own access. What happens when either of them goes away:
//! * a lender's pages cannot be reclaimed while they are on loan: the loans are revoked first;
//! * a borrower's address space cannot be destroyed while something borrowed is in it: the loans are returned first.
//!
//! In both cases: for each of [`Owners::loans_of`] the VM, [`Owners::revoke`] to its end.

use crate::phys::{AllocError, FreeRanges, MAX_PIECES, PhysRange};
use crate::{Backing, Error, Extent, Ipa, Mmu, Rights, Stage2, VmId};
use heapless::Vec;

/// The most ranges that all VMs together own.
pub const MAX_OWNED: usize = 48;
/// The most loans at a time.
pub const MAX_LOANS: usize = 64;

/// Names a loan; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanId(u64);

/// A loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// Its name.
    pub id: LoanId,
    /// The owner of the pages.
    pub lender: VmId,
    /// Who may use them.
    pub borrower: VmId,
    /// The pages.
    pub range: PhysRange,
    /// Where the borrower sees them.
    pub ipa: Ipa,
    /// What the borrower may do with them.
    pub rights: Rights,
}

/// Why memory was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// There is none to grant.
    #[error(transparent)]
    Alloc(AllocError),
    /// The VMs together would own more than [`MAX_OWNED`] ranges.
    #[error("the VMs have too many pieces")]
    TooManyRanges,
}

/// Why a loan was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LendError {
    /// Some of it does not belong to the lender.
    NotOwner,
    /// Some of it is on loan.
    OnLoan,
    /// To itself.
    SameVm,
    /// There are [`MAX_LOANS`] loans.
    TooManyLoans,
    /// It does not fit into the borrower's address space.
    Borrower(Error),
}

/// Why a loan was not revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeError {
    /// There is no such loan (any more).
    NoLoan,
    /// Only lender and borrower may end it.
    NotParty,
    /// The address space is not the borrower's.
    NotBorrower,
    /// It cannot be unmapped for now.
    Borrower(Error),
}

/// The owners of all guest-assignable memory.
#[derive(Debug)]
pub struct Owners {
    free: FreeRanges,
    owned: Vec<(VmId, PhysRange), MAX_OWNED>,
    loans: Vec<Loan, MAX_LOANS>,
    next_loan: u64,
}

impl Owners {
    /// Everything is free.
    pub const fn new(free: FreeRanges) -> Self {
        Self { free, owned: Vec::new(), loans: Vec::new(), next_loan: 0 }
    }

    /// What belongs to nobody.
    pub const fn free(&self) -> &FreeRanges {
        &self.free
    }

    /// Gives `vm` at least `size` bytes, in as few pieces as possible. They still hold what their last owner left.
    ///
    /// # Errors
    /// The memory is not there. Nothing is granted then.
    pub fn grant(&mut self, vm: VmId, size: u64) -> Result<Vec<PhysRange, MAX_PIECES>, GrantError> {
        let pieces = self.free.alloc(size).map_err(GrantError::Alloc)?;
        if self.owned.len() + pieces.len() > MAX_OWNED {
            pieces.into_iter().for_each(|piece| self.free.free(piece));
            return Err(GrantError::TooManyRanges);
        }
        self.owned.extend(pieces.iter().map(|&piece| (vm, piece)));
        Ok(pieces)
    }

    /// Gives `vm` just `range`, for a VM whose IPAs must be physical addresses.
    ///
    /// # Errors
    /// It is not free, or not aligned to 2 MiB. Nothing is granted then.
    pub fn grant_at(&mut self, vm: VmId, range: PhysRange) -> Result<(), GrantError> {
        if self.owned.is_full() {
            return Err(GrantError::TooManyRanges);
        }
        self.free.alloc_at(range).map_err(GrantError::Alloc)?;
        self.owned.extend([(vm, range)]);
        Ok(())
    }

    /// What `vm` owns.
    pub fn owned(&self, vm: VmId) -> impl Iterator<Item = PhysRange> {
        self.owned.iter().filter(move |(owner, _)| *owner == vm).map(|(_, range)| *range)
    }

    /// The owner of all of `range`, if it is one VM's and in one piece.
    pub fn owner(&self, range: PhysRange) -> Option<VmId> {
        self.owned.iter().find(|(_, owned)| owned.covers(range)).map(|(owner, _)| *owner)
    }

    /// The loans in which `vm` is lender or borrower.
    pub fn loans_of(&self, vm: VmId) -> impl Iterator<Item = &Loan> {
        self.loans.iter().filter(move |loan| loan.lender == vm || loan.borrower == vm)
    }

    /// Lends `range`, which `lender` owns, to the VM of `borrower`, to be seen at `ipa` once that is populated
    /// ([`Stage2::populate`]). `logging`: the lender's writes are logged now, so the borrower's are, too.
    ///
    /// # Errors
    /// As [`LendError`] says. Nothing is changed then.
    pub fn lend(
        &mut self,
        lender: VmId,
        range: PhysRange,
        borrower: &mut Stage2,
        ipa: Ipa,
        rights: Rights,
        logging: bool,
    ) -> Result<LoanId, LendError> {
        if lender == borrower.vm() {
            return Err(LendError::SameVm);
        }
        if range.start.0.checked_add(range.len).is_none() || self.owner(range) != Some(lender) {
            return Err(LendError::NotOwner);
        }
        if self.loans.iter().any(|loan| loan.range.overlaps(range)) {
            return Err(LendError::OnLoan);
        }
        if self.loans.is_full() {
            return Err(LendError::TooManyLoans);
        }
        let id = LoanId(self.next_loan);
        let backing = Backing::Borrowed(id);
        borrower
            .insert(Extent { ipa, pa: range.start, len: range.len, rights, backing, logging })
            .map_err(LendError::Borrower)?;
        self.next_loan += 1;
        self.loans.extend([Loan { id, lender, borrower: borrower.vm(), range, ipa, rights }]);
        Ok(id)
    }

    /// One step of ending a loan, which `by` wants, the lender or the borrower. Returns true when it is over: nothing
    /// of it is mapped or cached for the borrower any more. From the first step on only the end remains possible: what
    /// is gone from the borrower's address space does not come back.
    ///
    /// # Errors
    /// As [`RevokeError`] says.
    pub fn revoke(
        &mut self,
        hw: &mut impl Mmu,
        by: VmId,
        id: LoanId,
        borrower: &mut Stage2,
    ) -> Result<bool, RevokeError> {
        let at = self.loans.iter().position(|loan| loan.id == id).ok_or(RevokeError::NoLoan)?;
        let loan = self.loans[at];
        if by != loan.lender && by != loan.borrower {
            return Err(RevokeError::NotParty);
        }
        if borrower.vm() != loan.borrower {
            return Err(RevokeError::NotBorrower);
        }
        let over = borrower.remove_loan(hw, id).map_err(RevokeError::Borrower)?;
        if over {
            self.loans.swap_remove(at);
        }
        Ok(over)
    }

    /// Makes free all that `vm` owns. Its address space must have been destroyed.
    ///
    /// # Errors
    /// A loan in which it still takes part.
    pub fn reclaim(&mut self, vm: VmId) -> Result<(), LoanId> {
        if let Some(loan) = self.loans_of(vm).next() {
            return Err(loan.id);
        }
        let Self { free, owned, .. } = self;
        owned.retain(|&(owner, range)| {
            if owner == vm {
                free.free(range);
            }
            owner != vm
        });
        Ok(())
    }
}
