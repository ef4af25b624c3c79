//! One connection of a guest: read, decided, handed on.

use crate::buffer::Buffer;
use crate::dial::{dial, resolve};
use crate::first::{self, First, Spoken};
use crate::gate::Gate;
use crate::guest::GuestStream;
use crate::incoming::Incoming;
use crate::journal::Kind;
use crate::nameless::{self, Candidate};
use crate::places::Places;
use crate::proxy::Proxy;
use crate::{plain, transform, tunnel};
use leapbox_egress_policy::stream::ClientHello;
use leapbox_egress_policy::{Denial, DomainName, Passage, Transform};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// For the guest to say whom it wants.
const DECISION: Duration = Duration::from_secs(10);
/// For its first byte where a server may speak first.
const SILENCE: Duration = Duration::from_millis(300);
/// TLS alert `access_denied`, fatal: tells a client more than a reset does.
const ACCESS_DENIED: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 49];

/// Runs a connection to its end; the journal hears why it was refused.
pub(crate) async fn run(
    proxy: Arc<Proxy>,
    gate: Arc<Gate>,
    guest: GuestStream,
    destination: SocketAddrV4,
    places: Places,
) {
    let incoming = Incoming { guest, destination, held: Buffer::default(), places };
    if let Err(denial) = decide(&proxy, &gate, incoming).await {
        gate.journal.deny_to(&denial, destination);
    }
}

async fn decide(proxy: &Arc<Proxy>, gate: &Arc<Gate>, mut incoming: Incoming) -> Result<(), Denial> {
    let candidate = nameless::candidate(gate, incoming.destination);
    let end = Instant::now() + DECISION;
    let begin = if candidate.is_some() { Instant::now() + SILENCE } else { end };
    let read = first::read(&mut incoming.guest, &mut incoming.held, begin, end).await;
    let spoken = match (read, candidate) {
        (Ok(First::Gone), _) => return Ok(()),
        (Ok(First::Spoken(Spoken::Foreign | Spoken::Partial) | First::Silence), Some(candidate)) => {
            return listen_first(proxy, gate, incoming, candidate).await;
        }
        (Ok(First::Spoken(spoken)), _) => Ok(spoken),
        (Ok(First::Silence), None) if incoming.held.is_empty() => Err(Denial::NoName),
        (Ok(First::Silence), None) => Err(Denial::Slow { what: "a TLS hello or a request's head" }),
        (Err(denial), _) => Err(denial),
    };
    by_name(proxy, gate, incoming, spoken).await
}

/// For an address that this sandbox's resolver has answered: unless the guest says a name after all, its bytes wait for
/// the server's.
async fn listen_first(
    proxy: &Arc<Proxy>,
    gate: &Arc<Gate>,
    mut incoming: Incoming,
    candidate: Candidate,
) -> Result<(), Denial> {
    match Box::pin(nameless::wait(gate, &mut incoming, &candidate)).await {
        Ok(nameless::Turn::Server(upstream)) => {
            incoming.places.decided();
            gate.journal.opened(Kind::Nameless);
            tunnel::tunnel(incoming.guest, upstream, incoming.held, &gate.journal).await;
            Ok(())
        }
        Ok(nameless::Turn::Gone) => Ok(()),
        Ok(nameless::Turn::Guest(spoken)) => by_name(proxy, gate, incoming, Ok(spoken)).await,
        Err(denial) => by_name(proxy, gate, incoming, Err(denial)).await,
    }
}

/// Decides by the name that the guest has said. An error is what it said wrongly.
async fn by_name(
    proxy: &Arc<Proxy>,
    gate: &Arc<Gate>,
    incoming: Incoming,
    spoken: Result<Spoken, Denial>,
) -> Result<(), Denial> {
    match spoken {
        Ok(Spoken::Tls(hello)) => tls(proxy, gate, incoming, hello).await,
        Ok(Spoken::Http(head)) => Box::pin(plain::serve(gate, incoming, head)).await,
        Ok(Spoken::Foreign | Spoken::Partial) => Err(Denial::NoName),
        Err(denial) => {
            // Who speaks TLS gets an alert, who speaks HTTP an answer; others get a reset.
            let word = match incoming.held.filled().first() {
                Some(0x16) => ACCESS_DENIED.to_vec(),
                Some(byte) if byte.is_ascii_alphabetic() || byte.is_ascii_whitespace() => plain::refusal(&denial),
                Some(_) | None => Vec::new(),
            };
            if !word.is_empty() {
                incoming.guest.farewell(&word).await;
            }
            Err(denial)
        }
    }
}

async fn tls(proxy: &Arc<Proxy>, gate: &Arc<Gate>, mut incoming: Incoming, hello: ClientHello) -> Result<(), Denial> {
    let (name, transform) = match allowed(gate, &hello) {
        Ok(decision) => decision,
        Err(denial) => {
            incoming.guest.farewell(&ACCESS_DENIED).await;
            return Err(denial);
        }
    };
    incoming.places.decided();
    let Incoming { guest, destination, held, places: _places } = incoming;
    let addresses = resolve(gate, &name).await;
    let port = destination.port();
    let Some(transform) = transform else {
        let upstream = dial(gate, &name, &addresses?, port, *destination.ip()).await?;
        gate.journal.opened(Kind::Tls);
        tunnel::tunnel(guest, upstream, held, &gate.journal).await;
        return Ok(());
    };
    let already_read = held.filled().to_vec();
    drop(held);
    let addresses = addresses?;
    gate.journal.opened(Kind::Transform);
    let connection = transform::Connection { guest, already_read, hello, name, transform, addresses, destination };
    Box::pin(transform::serve(proxy, gate, connection)).await
}

/// The name a ClientHello is for, and the transform it goes through, if the policy allows it. A hidden name does not
/// matter where TLS ends here: we have no key for it, and every request is held to the name that can be seen.
fn allowed(gate: &Gate, hello: &ClientHello) -> Result<(DomainName, Option<Transform>), Denial> {
    let name = match (&hello.server_name, hello.encrypted) {
        (Some(name), _) => name.clone(),
        (None, true) => return Err(Denial::EncryptedHello),
        (None, false) => return Err(Denial::NoName),
    };
    match gate.evaluator.name(&name)? {
        Passage::Opaque if hello.encrypted => Err(Denial::EncryptedHello),
        Passage::Opaque => Ok((name, None)),
        Passage::Transform(transform) => {
            let transform = transform.clone();
            Ok((name, Some(transform)))
        }
    }
}
