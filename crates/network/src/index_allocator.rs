//! Keeps account of slot indices: free, in use, or waiting until their old namespace no longer exists. It does no I/O.

use std::collections::{BTreeSet, VecDeque};

/// Allocates slot indices. An index decides addresses and the VMM's uid, so it is given out again only after nothing of
/// its last use exists any more.
#[derive(Debug)]
pub(crate) struct IndexAllocator {
    // A queue, so that the index that was unused for the longest time is given out first. Late packets for the previous
    // sandbox at its address have the most time to end then.
    free: VecDeque<u32>,
    in_use: BTreeSet<u32>,
    releasing: BTreeSet<u32>,
}

impl IndexAllocator {
    /// All indices below `max_slots` are free, except those in `left`, whose veth a previous server has left.
    pub(crate) fn new(max_slots: u32, left: BTreeSet<u32>) -> Self {
        let free = (0..max_slots).filter(|index| !left.contains(index)).collect();
        Self { free, in_use: BTreeSet::new(), releasing: left }
    }

    /// Takes the index that was unused for the longest time.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let index = self.free.pop_front()?;
        self.in_use.insert(index);
        Some(index)
    }

    /// Takes the given index for a slot that is adopted. Returns false if it is in use. It may be beyond `max_slots`: a
    /// smaller limit than the previous server's holds for new slots only.
    pub(crate) fn take_exactly(&mut self, index: u32) -> bool {
        if !self.in_use.insert(index) {
            return false;
        }
        self.releasing.remove(&index);
        self.free.retain(|free| *free != index);
        true
    }

    /// Marks a slot as closed; its index waits for [`Self::released`].
    pub(crate) fn release(&mut self, index: u32) {
        if self.in_use.remove(&index) {
            self.releasing.insert(index);
        }
    }

    /// Frees an index of which nothing exists any more.
    pub(crate) fn released(&mut self, index: u32, max_slots: u32) {
        // A previous server with a larger `max_slots` may have left indices that this one does not have.
        if self.releasing.remove(&index) && index < max_slots {
            self.free.push_back(index);
        }
    }

    /// The indices of closed slots, and of those that a previous server has left.
    pub(crate) fn releasing(&self) -> &BTreeSet<u32> {
        &self.releasing
    }

    /// Number of indices in use, those of prepared slots included.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use.len()
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_not_given_out_again_before_it_is_released() {
        let mut indices = IndexAllocator::new(1, BTreeSet::new());
        assert_eq!(indices.take(), Some(0));
        assert_eq!(indices.take(), None);
        indices.release(0);
        assert_eq!(indices.take(), None);
        indices.released(0, 1);
        assert_eq!(indices.take(), Some(0));
    }

    #[test]
    fn the_longest_unused_index_comes_first() {
        let mut indices = IndexAllocator::new(3, BTreeSet::new());
        assert_eq!(indices.take(), Some(0));
        indices.release(0);
        indices.released(0, 3);
        assert_eq!((indices.take(), indices.take(), indices.take()), (Some(1), Some(2), Some(0)));
    }

    #[test]
    fn a_left_index_can_be_adopted_but_not_taken() {
        let mut indices = IndexAllocator::new(2, BTreeSet::from([0]));
        assert_eq!(indices.take(), Some(1));
        assert_eq!(indices.take(), None);
        assert!(indices.take_exactly(0));
        assert!(!indices.take_exactly(0));
        assert!(!indices.take_exactly(1));
    }

    #[test]
    fn an_index_beyond_the_maximum_can_be_adopted_and_is_not_given_out_afterwards() {
        let mut indices = IndexAllocator::new(1, BTreeSet::from([7]));
        assert!(indices.take_exactly(7));
        assert!(!indices.take_exactly(7), "it is in use");
        indices.release(7);
        indices.released(7, 1);
        assert_eq!((indices.take(), indices.take()), (Some(0), None));
    }

    #[test]
    fn an_index_whose_adoption_failed_waits_as_before_and_can_be_adopted_again() {
        let mut indices = IndexAllocator::new(2, BTreeSet::from([0]));
        assert!(indices.take_exactly(0));
        // The lease of a failed adoption is dropped, which releases the index; its veth still exists.
        indices.release(0);
        assert_eq!((indices.take(), indices.take()), (Some(1), None), "it is not free");
        assert!(indices.releasing().contains(&0));
        assert!(indices.take_exactly(0));
    }

    #[test]
    fn a_left_index_beyond_the_maximum_is_forgotten_once_gone() {
        let mut indices = IndexAllocator::new(1, BTreeSet::from([7]));
        indices.released(7, 1);
        assert_eq!((indices.free(), indices.in_use()), (1, 0));
        assert!(indices.releasing().is_empty());
    }

    #[test]
    fn releasing_twice_changes_nothing() {
        let mut indices = IndexAllocator::new(1, BTreeSet::new());
        indices.take();
        indices.release(0);
        indices.release(0);
        indices.released(0, 1);
        indices.released(0, 1);
        assert_eq!(indices.free(), 1);
    }
}
