//! Resolves an allowed name and connects to its server.
//!
//! ```text
//!  name ─► NameServer::resolve ─► addresses, the guest's choice first if it is one of them ─► each: checked, dialled
//! ```

use crate::PROXY_MARK;
use crate::context::EgressContext;
use crate::sockets::set_options;
use leapbox_egress_policy::{Denial, DomainName};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

// Shorter than the kernel's own two minutes of SYNs, so that a dead address does not use up the client's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
// Only a backstop: the name server has a deadline of 8 s of its own, but may first wait for the sandbox's other
// queries.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(15);
// The owner of an allowed name decides how many addresses it has. Without a bound, one connection could make the host
// dial dozens of them.
const MAX_ATTEMPTS: usize = 8;

/// Returns the addresses of an allowed name.
///
/// # Errors
/// [`Denial::Unresolved`] if there are none.
pub(crate) async fn resolve(context: &EgressContext, name: &DomainName) -> Result<Vec<Ipv4Addr>, Denial> {
    let addresses = timeout(RESOLVE_TIMEOUT, context.name_server.resolve(name)).await.unwrap_or_default();
    if addresses.is_empty() { Err(Denial::Unresolved { name: name.clone() }) } else { Ok(addresses) }
}

/// Connects to the first of a name's addresses that accepts, beginning with `prefer`.
///
/// # Errors
/// The last attempt's error: an address that the name may not lead to, or a server that cannot be reached.
pub(crate) async fn dial(
    context: &EgressContext,
    name: &DomainName,
    addresses: &[Ipv4Addr],
    port: u16,
    prefer: Ipv4Addr,
) -> Result<TcpStream, Denial> {
    // The address that the guest has dialled is used only if the name server has returned it for this name: a program
    // that chose among the answers gets its choice, and one that made an address up does not.
    let preferred = addresses.iter().filter(|address| **address == prefer).take(1);
    let others = addresses.iter().filter(|address| **address != prefer);
    let mut failure = Denial::Unresolved { name: name.clone() };
    for address in preferred.chain(others).take(MAX_ATTEMPTS) {
        match attempt(context, name, *address, port).await {
            Ok(stream) => return Ok(stream),
            Err(denial) => failure = denial,
        }
    }
    Err(failure)
}

/// Checks one address and dials it.
async fn attempt(
    context: &EgressContext,
    name: &DomainName,
    address: Ipv4Addr,
    port: u16,
) -> Result<TcpStream, Denial> {
    // Checked here and not when the name was resolved: nothing between this line and the connect can exchange the
    // address (DNS rebinding).
    context.evaluator.address(address)?;
    let unreachable = |what: String| Denial::Upstream { name: name.clone(), what };
    match timeout(CONNECT_TIMEOUT, connect(SocketAddr::from((address, port)))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable(format!("{address} port {port}: {error}"))),
        Err(_) => {
            Err(unreachable(format!("{address} port {port} did not answer within {} s", CONNECT_TIMEOUT.as_secs())))
        }
    }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // The host's rules for the proxy apply to marked packets only, so a socket without the mark must not connect.
    setsockopt(&socket, sockopt::Mark, &PROXY_MARK)?;
    set_options(&socket)?;
    socket.connect(to).await
}
