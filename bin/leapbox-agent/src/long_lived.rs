//! Permits for connections that last: commands and relays.
//!
//! They are counted, so that some workers are left for short calls, and listed, so that all can be reset at once: in a
//! machine that was restored from a stored state the host's end of every connection is gone without a FIN, and hundreds
//! of them would keep their permits until TCP keep-alive finds out. Called by `connection`.

use leapbox_guest_protocol::{FaultKind, GuestFault};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Commands and relays at a time. The other 32 of 256 workers stay free for short calls, so that the host can always
/// look at files, suspend the guest and shut it down.
pub const MAX_LONG: usize = 224;
// After a restore all workers notice their resets at the same time, and on a busy host that takes a while.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);

/// The open long-lived connections.
#[derive(Debug, Default)]
pub(crate) struct LongLivedPermits {
    open: Mutex<Open>,
    released: Condvar,
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

/// A permit for one long-lived connection, which is released when this is dropped.
#[derive(Debug)]
pub(crate) struct LongLivedPermit<'a> {
    permits: &'a LongLivedPermits,
    number: u64,
}

impl LongLivedPermits {
    /// Takes a permit for a connection; [`FaultKind::Busy`] when all are taken.
    pub(crate) fn acquire(&self, stream: &TcpStream) -> Result<LongLivedPermit<'_>, GuestFault> {
        let stream = stream.try_clone().map_err(|error| crate::fault::from_io("the connection", &error))?;
        // Waits only for connections that were reset and are about to end. Others may last for hours.
        let frees_soon = |open: &mut Open| {
            open.connections.len() >= MAX_LONG && open.connections.values().any(|connection| connection.reset)
        };
        let (mut open, _) = self
            .released
            .wait_timeout_while(self.lock(), RESET_TIMEOUT, frees_soon)
            .unwrap_or_else(PoisonError::into_inner);
        if open.connections.len() >= MAX_LONG {
            let message =
                format!("{MAX_LONG} commands and connections are open in the sandbox already; end some, or try again");
            return Err(GuestFault::new(FaultKind::Busy, message));
        }
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, Connection { stream, reset: false });
        Ok(LongLivedPermit { permits: self, number })
    }

    /// Resets every open connection. Their workers notice at once, and clean up as after any other reset.
    pub(crate) fn reset_all(&self) {
        for connection in self.lock().connections.values_mut() {
            connection.reset = true;
            if reset(&connection.stream).is_err() {
                // The kernel refuses it while another thread waits in a call on the socket. That worker then reads an
                // end of the stream instead, and its next write fails.
                let _ = connection.stream.shutdown(Shutdown::Both);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LongLivedPermit<'_> {
    fn drop(&mut self) {
        self.permits.lock().connections.remove(&self.number);
        self.permits.released.notify_all();
    }
}

/// Ends a connection as a reset by its peer would, whoever polls it: connect(2) to AF_UNSPEC dissolves it.
fn reset(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: plain data, all-zero is valid.
    let mut nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    nowhere.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let len = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of a live structure of that size.
    let result = unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, len) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
