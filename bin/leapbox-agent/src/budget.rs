//! Bounds the memory that all requests hold together.
//!
//! PID 1 must not run out of memory, so whatever can be large (file content, output, listings) is leased from one
//! budget before it is allocated. A request that finds too little left waits, and is then answered `Busy`.

use leapbox_guest_protocol::{FaultKind, GuestFault};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bytes that all requests may hold at a time. The largest request is a read of 10 MiB, which holds its content and the
/// frame around it, so 20 MiB; the rest lets smaller ones run beside it. Boot reserves as much from the workload's
/// memory.
pub const BUDGET_BYTES: usize = 32 << 20;
// Shorter than the host's deadlines of the calls that lease memory, so that its caller reads "busy" and no time-out.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The bytes that are not leased, and a signal for those who wait for some.
#[derive(Debug)]
pub struct Budget {
    left: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self { left: Mutex::new(bytes), freed: Condvar::new() }
    }

    /// Makes a lease that holds nothing yet.
    pub fn lease(&self) -> Lease<'_> {
        Lease { budget: self, held: 0 }
    }
}

/// The bytes that one connection holds; they return to the budget when this is dropped.
#[derive(Debug)]
pub struct Lease<'a> {
    budget: &'a Budget,
    held: usize,
}

impl Lease<'_> {
    /// Leases more bytes if they are free now, without waiting.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let mut left = self.budget.left.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(&mut left, bytes)
    }

    /// Leases more bytes, waiting up to 10 s for other requests to end; [`FaultKind::Busy`] if too few become free.
    pub fn grow(&mut self, bytes: usize) -> Result<(), GuestFault> {
        let left = self.budget.left.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = |left: &mut usize| *left < bytes;
        let (mut left, _) =
            self.budget.freed.wait_timeout_while(left, WAIT_TIMEOUT, enough).unwrap_or_else(PoisonError::into_inner);
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
        // Most leases hold nothing, and waking the waiters for them would be work for nothing.
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
