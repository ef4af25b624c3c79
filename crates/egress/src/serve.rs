//! Accepts the connections that the sandbox's rules redirect to the proxy, and runs one task for each.

use crate::connection;
use crate::context::EgressContext;
use crate::guest::GuestStream;
use crate::permits::ConnectionPermits;
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

// Pause before the next accept when the process has run out of descriptors or memory: the failed connection stays in
// the queue, so an immediate retry would be a busy loop.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// Serves one sandbox's listener. The future never ends by itself; dropping it resets every connection of the sandbox.
pub async fn serve(proxy: Arc<Proxy>, context: Arc<EgressContext>, listener: TcpListener) {
    // Accepted sockets inherit these on Linux: no system call per connection.
    if let Err(error) = set_options(&listener) {
        tracing::warn!(error = %chain(&error), "proxied connections have no keepalive: vanished peers are not noticed");
    }
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Some(task) = begin(&proxy, &context, stream) {
                        connections.spawn(task);
                    }
                }
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(error = %chain(&error), "the egress proxy cannot accept now, and tries again");
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
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

/// Returns a new connection's task, or `None` for one that is reset instead.
fn begin(
    proxy: &Arc<Proxy>,
    context: &Arc<EgressContext>,
    stream: TcpStream,
) -> Option<impl Future<Output = ()> + use<>> {
    let destination = original_destination(&stream);
    // From here on, every early return resets the connection.
    let guest = GuestStream::new(stream);
    let destination = destination?;
    if matches!(context.evaluator.policy(), Policy::DenyAll) {
        context.journal.deny_to(&Denial::DenyAll, destination);
        return None;
    }
    match ConnectionPermits::take(proxy, context) {
        Ok(permits) => Some(connection::run(Arc::clone(proxy), Arc::clone(context), guest, destination, permits)),
        Err(what) => {
            context.journal.deny_to(&Denial::TooMany { what }, destination);
            None
        }
    }
}

/// Returns the address that the guest has dialled, from the kernel's connection tracking. `None` if that is the proxy
/// itself.
fn original_destination(stream: &TcpStream) -> Option<SocketAddrV4> {
    let found = nix::sys::socket::getsockopt(stream, sockopt::OriginalDst)
        .inspect_err(|error| tracing::debug!(error = %chain(error), "a connection's original destination is not known"))
        .ok()?;
    let address = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
    let destination = SocketAddrV4::new(address, u16::from_be(found.sin_port));
    match stream.local_addr() {
        // A connection that no rule has redirected: the proxy is no destination, and would dial itself.
        Ok(SocketAddr::V4(own)) if own != destination => Some(destination),
        Ok(_) | Err(_) => None,
    }
}

/// Whether an error of accept is about the process or the host. All others are about the one connection, which is
/// dropped.
fn is_shortage(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|code| shortages.contains(&Errno::from_raw(code)))
}
