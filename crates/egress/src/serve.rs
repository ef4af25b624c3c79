//! Accepts what the sandbox's rules redirect to the proxy, one task per connection.

use crate::connection;
use crate::gate::Gate;
use crate::guest::GuestStream;
use crate::places::Places;
use crate::proxy::Proxy;
use crate::sockets::set_options;
use leapbox_egress_policy::{Denial, Policy};
use leapbox_errors::chain;
use nix::sys::socket::sockopt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Between attempts to accept when the process has run out of something.
const SHORTAGE: Duration = Duration::from_millis(50);

/// Serves one sandbox's listener. Never returns by itself; dropping it resets every connection of the sandbox.
pub async fn serve(proxy: Arc<Proxy>, gate: Arc<Gate>, listener: TcpListener) {
    // Accepted sockets inherit these on Linux: no system call per connection.
    if let Err(error) = set_options(&listener) {
        tracing::warn!(error = %chain(&error), "the proxy's connections go without keepalive");
    }
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Some(task) = admit(&proxy, &gate, stream) {
                        connections.spawn(task);
                    }
                }
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(error = %chain(&error), "the proxy cannot accept connections");
                    tokio::time::sleep(SHORTAGE).await;
                }
                Err(error) => tracing::debug!(error = %chain(&error), "a connection was gone before it was accepted"),
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(error = %chain(&error), "a proxied connection's task panicked");
                }
            }
        }
    }
}

/// A new connection's task, or nothing: then it was reset.
fn admit(proxy: &Arc<Proxy>, gate: &Arc<Gate>, stream: TcpStream) -> Option<impl Future<Output = ()> + use<>> {
    let destination = original_destination(&stream);
    let guest = GuestStream::new(stream);
    let destination = destination?;
    if matches!(gate.evaluator.policy(), Policy::DenyAll) {
        gate.journal.deny_to(&Denial::DenyAll, destination);
        return None;
    }
    match Places::take(proxy, gate) {
        Ok(places) => Some(connection::run(Arc::clone(proxy), Arc::clone(gate), guest, destination, places)),
        Err(what) => {
            gate.journal.deny_to(&Denial::TooMany { what }, destination);
            None
        }
    }
}

/// Where the guest has dialled, as connection tracking remembers it. None if that is the proxy itself: nobody redirected
/// the connection.
fn original_destination(stream: &TcpStream) -> Option<SocketAddrV4> {
    let found = nix::sys::socket::getsockopt(stream, sockopt::OriginalDst)
        .inspect_err(|error| tracing::debug!(error = %chain(error), "a connection's original destination is not known"))
        .ok()?;
    let address = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
    let destination = SocketAddrV4::new(address, u16::from_be(found.sin_port));
    match stream.local_addr() {
        Ok(SocketAddr::V4(own)) if own != destination => Some(destination),
        Ok(_) | Err(_) => None,
    }
}

/// Errors of the process or the host, which go by; all others are about one connection.
fn is_shortage(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|code| shortages.contains(&Errno::from_raw(code)))
}
