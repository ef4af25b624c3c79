//! From an allowed name to a connection with its server.
//!
//! ```text
//!  name ─► Names::resolve ─► addresses ─► the guest's choice first, if it is one of them ─► each: checked, then dialled
//! ```

use crate::PROXY_MARK;
use crate::gate::Gate;
use crate::sockets::set_options;
use leapbox_egress_policy::{Denial, DomainName};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// For one address to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// For the resolver, which has shorter deadlines of its own.
const RESOLVE: Duration = Duration::from_secs(15);
/// More addresses of one name than this are not tried: a name server of the guest's own friends may answer many.
const ATTEMPTS: usize = 8;

/// The addresses of an allowed name.
///
/// # Errors
/// If it has none that we know.
pub(crate) async fn resolve(gate: &Gate, name: &DomainName) -> Result<Vec<Ipv4Addr>, Denial> {
    let addresses = timeout(RESOLVE, gate.names.resolve(name)).await.unwrap_or_default();
    if addresses.is_empty() { Err(Denial::Unresolved { name: name.clone() }) } else { Ok(addresses) }
}

/// Connects to the first of a name's addresses that takes the connection, the one that the guest prefers before others.
///
/// # Errors
/// The last attempt's: an address the name may not lead to, or a server that can't be reached.
pub(crate) async fn dial(
    gate: &Gate,
    name: &DomainName,
    addresses: &[Ipv4Addr],
    port: u16,
    prefer: Ipv4Addr,
) -> Result<TcpStream, Denial> {
    let preferred = addresses.iter().filter(|address| **address == prefer).take(1);
    let others = addresses.iter().filter(|address| **address != prefer);
    let mut failure = Denial::Unresolved { name: name.clone() };
    for address in preferred.chain(others).take(ATTEMPTS) {
        match attempt(gate, name, *address, port).await {
            Ok(stream) => return Ok(stream),
            Err(denial) => failure = denial,
        }
    }
    Err(failure)
}

/// Checks one address and dials it. There is nothing between the two that could change it.
async fn attempt(gate: &Gate, name: &DomainName, address: Ipv4Addr, port: u16) -> Result<TcpStream, Denial> {
    gate.evaluator.address(address)?;
    let unreachable = |what: String| Denial::Upstream { name: name.clone(), what };
    match timeout(CONNECT, connect(SocketAddr::from((address, port)))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable(format!("{address} port {port}: {error}"))),
        Err(_) => Err(unreachable(format!("{address} port {port} did not answer within {} s", CONNECT.as_secs()))),
    }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Without its mark a packet would not be held to the host's rules for the proxy: no mark, no connection.
    setsockopt(&socket, sockopt::Mark, &PROXY_MARK)?;
    set_options(&socket)?;
    socket.connect(to).await
}
