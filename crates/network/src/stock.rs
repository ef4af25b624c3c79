//! Which slot indices are free, in use, or waiting for their old namespace to be gone. Pure.

use std::collections::{BTreeSet, VecDeque};

/// The book of indices. An index decides addresses and the VMM's uid, so it is given out again only after nothing of
/// its last use exists any more, and the longest unused one first.
#[derive(Debug)]
pub(crate) struct Stock {
    free: VecDeque<u32>,
    in_use: BTreeSet<u32>,
    releasing: BTreeSet<u32>,
}

impl Stock {
    /// All indices below `max_slots` are free but those whose veth a former server has left.
    pub(crate) fn new(max_slots: u32, left: BTreeSet<u32>) -> Self {
        let free = (0..max_slots).filter(|index| !left.contains(index)).collect();
        Self { free, in_use: BTreeSet::new(), releasing: left }
    }

    /// Takes the longest unused index.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let index = self.free.pop_front()?;
        self.in_use.insert(index);
        Some(index)
    }

    /// Takes this very index, unless it is in use.
    pub(crate) fn take_exactly(&mut self, index: u32) -> bool {
        let was_left = self.releasing.remove(&index);
        if !was_left {
            let Some(position) = self.free.iter().position(|free| *free == index) else { return false };
            self.free.remove(position);
        }
        self.in_use.insert(index)
    }

    /// The slot is over; its index waits for [`Self::released`].
    pub(crate) fn release(&mut self, index: u32) {
        if self.in_use.remove(&index) {
            self.releasing.insert(index);
        }
    }

    /// Nothing of the slot exists any more. Indices beyond `max_slots`, left by a former configuration, are forgotten.
    pub(crate) fn released(&mut self, index: u32, max_slots: u32) {
        if self.releasing.remove(&index) && index < max_slots {
            self.free.push_back(index);
        }
    }

    /// Indices to look after.
    pub(crate) fn releasing(&self) -> &BTreeSet<u32> {
        &self.releasing
    }

    /// How many are in use, prepared ones included.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use.len()
    }

    /// How many are free.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_not_given_out_again_before_it_is_released() {
        let mut stock = Stock::new(1, BTreeSet::new());
        assert_eq!(stock.take(), Some(0));
        assert_eq!(stock.take(), None);
        stock.release(0);
        assert_eq!(stock.take(), None);
        stock.released(0, 1);
        assert_eq!(stock.take(), Some(0));
    }

    #[test]
    fn the_longest_unused_index_comes_first() {
        let mut stock = Stock::new(3, BTreeSet::new());
        assert_eq!(stock.take(), Some(0));
        stock.release(0);
        stock.released(0, 3);
        assert_eq!((stock.take(), stock.take(), stock.take()), (Some(1), Some(2), Some(0)));
    }

    #[test]
    fn a_left_index_can_be_adopted_but_not_taken() {
        let mut stock = Stock::new(2, BTreeSet::from([0]));
        assert_eq!(stock.take(), Some(1));
        assert_eq!(stock.take(), None);
        assert!(stock.take_exactly(0));
        assert!(!stock.take_exactly(0));
        assert!(!stock.take_exactly(1));
    }

    #[test]
    fn a_left_index_beyond_the_maximum_is_forgotten_once_gone() {
        let mut stock = Stock::new(1, BTreeSet::from([7]));
        stock.released(7, 1);
        assert_eq!((stock.free(), stock.in_use()), (1, 0));
        assert!(stock.releasing().is_empty());
    }

    #[test]
    fn releasing_twice_changes_nothing() {
        let mut stock = Stock::new(1, BTreeSet::new());
        stock.take();
        stock.release(0);
        stock.release(0);
        stock.released(0, 1);
        stock.released(0, 1);
        assert_eq!(stock.free(), 1);
    }
}
