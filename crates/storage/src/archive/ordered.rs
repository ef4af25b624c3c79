//! Work on several cores whose results come in the order of its items.
//!
//! ```text
//!             ┌─► worker 0 ─┐      item n goes to worker n mod N,
//! source ─────┼─► worker 1 ─┼──►   and the result of item n is taken from there:
//! (a thread)  └─► worker 2 ─┘      nothing has to be put in order again
//! ```
//!
//! Called by `writer` (compress and encrypt) and `reader` (decrypt and decompress).

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle, available_parallelism};
use std::{io, iter};

// With more than four, the disk is what limits, and a pause would take more cores from the sandboxes that run.
const WORKERS_MAX: usize = 4;

/// An iterator over the results, in order. Dropping it ends the threads and waits for their end. `taken` counts the
/// results that were taken, which says from which worker the next one comes.
pub(super) struct Ordered<O> {
    results: Vec<Receiver<O>>,
    taken: usize,
    threads: Vec<JoinHandle<()>>,
}

impl<O: Send + 'static> Ordered<O> {
    /// Starts the threads; fails if the host cannot create one.
    pub fn start<I, S, W>(source: S, work: W) -> io::Result<Self>
    where
        I: Send + 'static,
        S: Iterator<Item = I> + Send + 'static,
        W: Fn(I) -> O + Clone + Send + 'static,
    {
        let workers = available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let mut ordered = Self { results: Vec::new(), taken: 0, threads: Vec::new() };
        let mut items: Vec<SyncSender<I>> = Vec::new();
        for _ in 0..workers {
            // One item per channel: memory stays bounded however large the part is, because whoever is slowest (the
            // disk, mostly) holds up the others.
            let (item_in, item_out) = sync_channel::<I>(1);
            let (result_in, result_out) = sync_channel(1);
            let work = work.clone();
            let run = move || drop(item_out.iter().map(work).try_for_each(|result| result_in.send(result)));
            items.push(item_in);
            ordered.results.push(result_out);
            ordered.threads.push(Builder::new().name("archive".to_owned()).spawn(run)?);
        }
        let feed =
            move || drop(iter::zip(source, items.iter().cycle()).try_for_each(|(item, worker)| worker.send(item)));
        ordered.threads.push(Builder::new().name("archive-source".to_owned()).spawn(feed)?);
        Ok(ordered)
    }
}

impl<O> Ordered<O> {
    /// Waits for the threads. A panic in one of them is resumed here: taken for the end of the work, it would yield an
    /// archive or a memory that lacks its end.
    fn join(&mut self) {
        // Without receivers every blocked send fails, which ends the workers and then the source, in whatever state.
        self.results.clear();
        for thread in self.threads.drain(..) {
            // A second panic while this thread unwinds (this is called by `drop`, too) would abort the server.
            if let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                resume_unwind(panic);
            }
        }
    }
}

impl<O> Iterator for Ordered<O> {
    type Item = O;

    fn next(&mut self) -> Option<O> {
        let worker = self.taken.checked_rem(self.results.len())?;
        self.taken += 1;
        let result = self.results[worker].recv().ok();
        // A worker that has ended has seen the end of the items, or it or the source has panicked: `join` tells which.
        if result.is_none() {
            self.join();
        }
        result
    }
}

impl<O> Drop for Ordered<O> {
    fn drop(&mut self) {
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn results_come_in_the_order_of_the_items_whatever_each_takes() {
        let work = |n: u64| {
            std::thread::sleep(Duration::from_micros(n * 7919 % 500));
            n * 2
        };
        let results: Vec<u64> = Ordered::start(0..200_u64, work).expect("threads").collect();
        assert_eq!(results, (0..200).map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(Ordered::start(iter::empty::<u64>(), work).expect("threads").next(), None);
    }

    #[test]
    fn one_that_is_dropped_early_leaves_no_thread_and_has_read_little() {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&read);
        let source = (0..).inspect(move |_: &u64| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let mut ordered = Ordered::start(source, |n| n).expect("threads");
        assert_eq!(ordered.next(), Some(0));
        drop(ordered);
        assert_eq!(Arc::strong_count(&read), 1, "the source is gone");
        assert!(read.load(Ordering::SeqCst) <= 4 * WORKERS_MAX, "{read:?} were read");
    }

    #[test]
    fn a_panic_of_the_source_or_the_work_is_not_an_end() {
        let broken = |at: u64| move |n: u64| if n == at { panic!("broken at {n}") } else { n };
        for ordered in [Ordered::start(0..9, broken(5)), Ordered::start((0..9).map(broken(5)), |n| n)] {
            let results = std::panic::AssertUnwindSafe(ordered.expect("threads"));
            let outcome = std::panic::catch_unwind(|| { results }.0.count());
            assert!(outcome.is_err());
        }
    }
}
