//! Relaying a connection to a port in the guest.
//!
//! ```text
//! host ══ channel ══▶ agent ──▶ 127.0.0.1:port, else [::1]:port, else eth0:port
//! ```
//!
//! One thread moves both directions with non-blocking sockets. The end of one direction is passed on (half-close) while
//! the other goes on; a reset is passed on as a reset, so that a cut answer never looks complete.

use crate::fault;
use crate::guest::Guest;
use leapbox_guest_protocol::{FaultKind, GuestFault};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// Bytes one direction holds.
const BUFFER: usize = 32 << 10;
/// How long a server with a full backlog is waited for.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Connects to a port of the workload's.
pub(crate) fn connect(guest: &Guest, port: u16) -> Result<TcpStream, GuestFault> {
    if port == 0 {
        return Err(fault::invalid("0 is not a port"));
    }
    let places = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(guest.workload_ip)];
    for place in places {
        match TcpStream::connect_timeout(&SocketAddr::new(place, port), CONNECT_PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) if nothing_there(&error) => {}
            Err(error) => return Err(fault::from_io(format_args!("port {port}"), &error)),
        }
    }
    let message = format!("nothing listens on port {port} in the sandbox");
    Err(GuestFault::new(FaultKind::ConnectionRefused, message))
}

/// Refused, or an address this guest doesn't have.
fn nothing_there(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error.kind(), ConnectionRefused | AddrNotAvailable | NetworkUnreachable | HostUnreachable | TimedOut)
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

thread_local! {
    /// A worker relays one connection at a time, and most workers relay many.
    static BUFFERS: RefCell<[Vec<u8>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Moves bytes both ways until both directions have ended.
pub(crate) fn relay(host: &TcpStream, app: &TcpStream) -> io::Result<()> {
    host.set_nonblocking(true)?;
    app.set_nonblocking(true)?;
    app.set_nodelay(true)?;
    let moved = BUFFERS.with_borrow_mut(|[up, down]| {
        up.resize(BUFFER, 0);
        down.resize(BUFFER, 0);
        let mut up = Direction::new(host, app, up);
        let mut down = Direction::new(app, host, down);
        move_both(&mut up, &mut down)
    });
    if moved.is_err() {
        for stream in [host, app] {
            // Best effort: without it the peer sees an orderly end.
            let _ = setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        }
    }
    moved
}

fn move_both(up: &mut Direction<'_>, down: &mut Direction<'_>) -> io::Result<()> {
    loop {
        while up.advance()? | down.advance()? {}
        if up.ended && down.ended {
            return Ok(());
        }
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(3);
        // A reset by the host ends both directions, also when both are waiting for the app alone. (Once our own end is
        // passed on to the host, its orderly end would look the same here.)
        polled.extend((!down.ended).then(|| PollFd::new(up.from.as_fd(), PollFlags::empty())));
        polled.extend(up.wants());
        polled.extend(down.wants());
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !down.ended && polled[0].any() == Some(true) {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
    }
}

/// One way of a relay.
struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    buffer: &'a mut [u8],
    /// What was read and not yet written.
    start: usize,
    end: usize,
    /// `from` has ended.
    source_done: bool,
    /// Everything was written and the end passed on.
    ended: bool,
}

impl<'a> Direction<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, buffer: &'a mut [u8]) -> Self {
        Self { from, to, buffer, start: 0, end: 0, source_done: false, ended: false }
    }

    /// Reads once or writes once, if it can; false when it must wait.
    fn advance(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.start < self.end {
            return Ok(match ready((&mut &*self.to).write(&self.buffer[self.start..self.end]))? {
                Some(written) => {
                    self.start += written;
                    true
                }
                None => false,
            });
        }
        if self.source_done {
            self.ended = true;
            return match self.to.shutdown(Shutdown::Write) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
                _ => Ok(true),
            };
        }
        match ready((&mut &*self.from).read(self.buffer))? {
            Some(len) => {
                (self.start, self.end) = (0, len);
                self.source_done = len == 0;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// What to wait for.
    fn wants(&self) -> Option<PollFd<'a>> {
        if self.ended {
            None
        } else if self.start < self.end {
            Some(PollFd::new(self.to.as_fd(), PollFlags::POLLOUT))
        } else {
            Some(PollFd::new(self.from.as_fd(), PollFlags::POLLIN))
        }
    }
}

/// `None` when the call would have blocked.
fn ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
