//! Relays a connection of the host's to a port in the guest. Called by `connection`.
//!
//! ```text
//! host ══ channel ══▶ agent ──▶ 127.0.0.1:port, else [::1]:port, else eth0:port
//! ```
//!
//! One thread moves both directions with non-blocking sockets. The end of one direction is passed on (half-close) while
//! the other continues; a reset is passed on as a reset, so that a truncated answer never looks complete.

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

/// Bytes of each direction's buffer; with 224 relays all buffers together take 14 MiB of the agent's reserve.
const BUFFER: usize = 32 << 10;
// A loopback connection is made at once, unless the server's backlog is full and the kernel drops the SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the server that listens on this port in the guest: on loopback, or else on `eth0`.
pub(crate) fn connect(guest: &Guest, port: u16) -> Result<TcpStream, GuestFault> {
    if port == 0 {
        return Err(fault::invalid("0 is not a port"));
    }
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(guest.workload_ip)];
    for address in addresses {
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            // A server may listen on any one of the addresses, so only the failure of all three is reported.
            Err(error) if nothing_there(&error) => {}
            // A port without a server refuses at once. No answer means that a server's queue is full: to go on with the
            // next address would take as long again, and end in the claim that nothing listens.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let message = format!("the server on port {port} accepts no further connection now");
                return Err(GuestFault::new(FaultKind::Busy, message));
            }
            Err(error) => return Err(fault::from_io(format_args!("port {port}"), &error)),
        }
    }
    let message = format!("nothing listens on port {port} in the sandbox");
    Err(GuestFault::new(FaultKind::ConnectionRefused, message))
}

/// Whether the port was refused, the address does not exist in this guest, or its address family is turned off.
fn nothing_there(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | AddrNotAvailable | NetworkUnreachable | HostUnreachable)
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

thread_local! {
    // Kept for the thread's life: a worker relays one connection after the other, and under emulation the page faults
    // of fresh buffers cost more than the copying.
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
            // With a linger time of 0, closing sends a reset instead of a FIN. If setting it fails, the peer sees an
            // orderly end; there is nothing better left to do.
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
        // Without events of its own, this entry reports only errors and hang-ups: a reset by the host ends both
        // directions at once, also while both wait for the application alone. Once our own end was passed on to the
        // host, its orderly end would look the same here, so it is not watched any more.
        polled.extend((!down.ended).then(|| PollFd::new(up.from.as_fd(), PollFlags::empty())));
        polled.extend(up.poll_fd());
        polled.extend(down.poll_fd());
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !down.ended && polled[0].any() == Some(true) {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
    }
}

/// One direction of a relay, and the bytes it has read from `from` and not yet written to `to`.
struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    buffer: &'a mut [u8],
    /// The unwritten bytes are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// `from` has sent its FIN.
    source_done: bool,
    /// Everything was written, and the FIN was passed on to `to`.
    ended: bool,
}

impl<'a> Direction<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, buffer: &'a mut [u8]) -> Self {
        Self { from, to, buffer, start: 0, end: 0, source_done: false, ended: false }
    }

    /// Reads once or writes once; false if the socket would have blocked or the direction has ended.
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
                // `NotConnected` means that `to` has closed both ways already, which is no failure of this direction.
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

    /// The socket and event that this direction waits for; `None` once it has ended.
    fn poll_fd(&self) -> Option<PollFd<'a>> {
        if self.ended {
            None
        } else if self.start < self.end {
            Some(PollFd::new(self.to.as_fd(), PollFlags::POLLOUT))
        } else {
            Some(PollFd::new(self.from.as_fd(), PollFlags::POLLIN))
        }
    }
}

/// Turns "would have blocked" and an interruption into `None`.
fn ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
