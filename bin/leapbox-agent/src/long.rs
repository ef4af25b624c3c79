//! Connections that last: commands and relays.
//!
//! They are counted, so that some workers are left for short calls, and known, so that all can be reset at once: in a
//! machine that was started from a stored state the host's end of every one is gone without a word, and hundreds of
//! them would otherwise keep their places until their keep-alive finds out.

use leapbox_guest_protocol::{FaultKind, GuestFault};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many there may be.
pub const MAX_LONG: usize = 224;
/// How long one more waits for others that were reset to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct LongSlots {
    open: Mutex<Open>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    reset: bool,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct LongSlot<'a> {
    slots: &'a LongSlots,
    number: u64,
}

impl LongSlots {
    /// [`FaultKind::Busy`] when all places are taken.
    pub(crate) fn enter(&self, stream: &TcpStream) -> Result<LongSlot<'_>, GuestFault> {
        let stream = stream.try_clone().map_err(|error| crate::fault::from_io("the connection", &error))?;
        let leaving = |open: &mut Open| {
            open.connections.len() >= MAX_LONG && open.connections.values().any(|connection| connection.reset)
        };
        let (mut open, _) =
            self.left.wait_timeout_while(self.lock(), PATIENCE, leaving).unwrap_or_else(PoisonError::into_inner);
        if open.connections.len() >= MAX_LONG {
            let message = format!("{MAX_LONG} commands and connections are open in the sandbox already");
            return Err(GuestFault::new(FaultKind::Busy, message));
        }
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, Connection { stream, reset: false });
        Ok(LongSlot { slots: self, number })
    }

    /// Resets every connection there is. Their workers notice at once and clean up as after any other reset.
    pub(crate) fn reset_all(&self) {
        for connection in self.lock().connections.values_mut() {
            connection.reset = true;
            if reset(&connection.stream).is_err() {
                // A worker is just waiting inside a call on it. It then sees an end, and fails at the next write.
                let _ = connection.stream.shutdown(Shutdown::Both);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LongSlot<'_> {
    fn drop(&mut self) {
        self.slots.lock().connections.remove(&self.number);
        self.slots.left.notify_all();
    }
}

/// Dissolves a connection as a reset by its peer would, whoever polls it: connect(2) to no address family.
fn reset(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: plain data, all-zero is valid.
    let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    nowhere.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let len = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of a live structure of that size.
    let result = unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, len) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
