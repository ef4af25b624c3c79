//! Memory that requests may hold together.
//!
//! PID 1 must not run out of memory, so whatever can be large (file content, output, listings) is accounted before it
//! is held. Who finds nothing left waits a little and is then told that the guest is busy.

use leapbox_guest_protocol::{FaultKind, GuestFault};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bytes all requests may hold at a time: the largest read (content and frame, 20 MiB) and some more. Fits in what
/// boot keeps back from the workload.
pub const BUDGET_BYTES: usize = 32 << 20;
/// How long a request waits for others to let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is left.
#[derive(Debug)]
pub struct Budget {
    left: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { left: Mutex::new(bytes), freed: Condvar::new() }
    }

    /// A lease that holds nothing yet.
    pub fn lease(&self) -> Lease<'_> {
        Lease { budget: self, held: 0 }
    }
}

/// What one connection holds; given back when dropped.
#[derive(Debug)]
pub struct Lease<'a> {
    budget: &'a Budget,
    held: usize,
}

impl Lease<'_> {
    /// Takes more, if it is there at once.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let mut left = self.budget.left.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(&mut left, bytes)
    }

    /// Takes more, waiting for others to let go. [`FaultKind::Busy`] when they don't.
    pub fn grow(&mut self, bytes: usize) -> Result<(), GuestFault> {
        let left = self.budget.left.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = |left: &mut usize| *left < bytes;
        let (mut left, _) =
            self.budget.freed.wait_timeout_while(left, PATIENCE, enough).unwrap_or_else(PoisonError::into_inner);
        if self.take(&mut left, bytes) {
            return Ok(());
        }
        Err(GuestFault::new(FaultKind::Busy, "the sandbox's agent is busy with other large requests; try again"))
    }

    fn take(&mut self, left: &mut usize, bytes: usize) -> bool {
        let enough = *left >= bytes;
        if enough {
            *left -= bytes;
            self.held += bytes;
        }
        enough
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.held > 0 {
            *self.budget.left.lock().unwrap_or_else(PoisonError::into_inner) += self.held;
            self.budget.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back_when_the_lease_ends() {
        let budget = Budget::new(10);
        let mut first = budget.lease();
        assert!(first.try_grow(8));
        assert!(!budget.lease().try_grow(3));
        drop(first);
        assert!(budget.lease().try_grow(10));
    }

    #[test]
    fn a_waiting_request_goes_on_as_soon_as_memory_is_free() {
        let budget = Budget::new(10);
        let mut first = budget.lease();
        assert!(first.try_grow(10));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.lease().grow(5));
            std::thread::sleep(Duration::from_millis(20));
            drop(first);
            assert_eq!(waiting.join().expect("no panic"), Ok(()));
        });
    }
}
