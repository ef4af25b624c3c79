//! Decides one connection of a guest by its first bytes and passes it to the module that serves it.

use crate::buffer::Buffer;
use crate::context::EgressContext;
use crate::dial::{dial, resolve};
use crate::guest::GuestStream;
use crate::incoming::Incoming;
use crate::journal::Kind;
use crate::permits::ConnectionPermits;
use crate::proxy::Proxy;
use crate::server_speaks_first::{self, Candidate, FirstSpeaker};
use crate::sniff::{self, FirstBytes, Sniffed};
use crate::{plain, transform, tunnel};
use leapbox_egress_policy::stream::ClientHello;
use leapbox_egress_policy::{Denial, DomainName, Passage, Transform};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

// For the whole hello or head, counted from the beginning: a limit per read would let a guest send a byte at a time and
// keep its connection undecided for hours.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);
// For the guest's first byte where the server may speak first. Such clients wait for its greeting, which is delayed by
// this; most others have sent something by then.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(300);
// The fatal TLS alert `access_denied` (49; RFC 8446, 6.2): clients report it, while a reset looks like a broken
// network.
const ACCESS_DENIED: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 49];

/// Runs a connection to its end. A denial is written to the journal.
pub(crate) async fn run(
    proxy: Arc<Proxy>,
    context: Arc<EgressContext>,
    guest: GuestStream,
    destination: SocketAddrV4,
    permits: ConnectionPermits,
) {
    let incoming = Incoming { guest, destination, held: Buffer::default(), permits };
    if let Err(denial) = decide(&proxy, &context, incoming).await {
        context.journal.deny_to(&denial, destination);
    }
}

async fn decide(proxy: &Arc<Proxy>, context: &Arc<EgressContext>, mut incoming: Incoming) -> Result<(), Denial> {
    let candidate = server_speaks_first::candidate(context, incoming.destination);
    let classified_by = Instant::now() + DECISION_TIMEOUT;
    let first_byte_by = if candidate.is_some() { Instant::now() + SILENCE_TIMEOUT } else { classified_by };
    let read = sniff::read(&mut incoming.guest, &mut incoming.held, first_byte_by, classified_by).await;
    let first_bytes = match (read, candidate) {
        (Ok(Sniffed::Gone), _) => return Ok(()),
        (Ok(Sniffed::FirstBytes(FirstBytes::Foreign) | Sniffed::TimedOut), Some(candidate)) => {
            return wait_for_server(proxy, context, incoming, candidate).await;
        }
        (Ok(Sniffed::FirstBytes(first_bytes)), _) => Ok(first_bytes),
        (Ok(Sniffed::TimedOut), None) if incoming.held.is_empty() => Err(Denial::NoName),
        (Ok(Sniffed::TimedOut), None) => Err(Denial::Slow { what: "a TLS hello or a request's head" }),
        (Err(denial), _) => Err(denial),
    };
    by_name(proxy, context, incoming, first_bytes).await
}

/// Serves a connection to an address that the sandbox's name server has answered. The guest's bytes are held back
/// until the server has spoken, unless they turn out to show a name.
async fn wait_for_server(
    proxy: &Arc<Proxy>,
    context: &Arc<EgressContext>,
    mut incoming: Incoming,
    candidate: Candidate,
) -> Result<(), Denial> {
    match Box::pin(server_speaks_first::wait(context, &mut incoming, &candidate)).await {
        Ok(FirstSpeaker::Server(upstream)) => {
            incoming.permits.decided();
            context.journal.opened(Kind::ServerFirst);
            tunnel::tunnel(incoming.guest, upstream, incoming.held, &context.journal).await;
            Ok(())
        }
        Ok(FirstSpeaker::Gone) => Ok(()),
        Ok(FirstSpeaker::Guest(first_bytes)) => by_name(proxy, context, incoming, Ok(first_bytes)).await,
        Err(denial) => by_name(proxy, context, incoming, Err(denial)).await,
    }
}

/// Decides by the name in the guest's first bytes. `first_bytes` is an error if they are malformed.
async fn by_name(
    proxy: &Arc<Proxy>,
    context: &Arc<EgressContext>,
    incoming: Incoming,
    first_bytes: Result<FirstBytes, Denial>,
) -> Result<(), Denial> {
    match first_bytes {
        Ok(FirstBytes::Tls(hello)) => tls(proxy, context, incoming, hello).await,
        Ok(FirstBytes::Http(head)) => Box::pin(plain::serve(context, incoming, head)).await,
        Ok(FirstBytes::Foreign) => Err(Denial::NoName),
        Err(denial) => {
            // A client of TLS gets an alert and one of HTTP an answer, so that its user reads the reason; others get a
            // reset.
            let answer = match incoming.held.filled().first() {
                Some(0x16) => ACCESS_DENIED.to_vec(),
                Some(byte) if byte.is_ascii_alphabetic() || byte.is_ascii_whitespace() => plain::refusal(&denial),
                Some(_) | None => Vec::new(),
            };
            if !answer.is_empty() {
                incoming.guest.close_with(&answer).await;
            }
            Err(denial)
        }
    }
}

async fn tls(
    proxy: &Arc<Proxy>,
    context: &Arc<EgressContext>,
    mut incoming: Incoming,
    hello: ClientHello,
) -> Result<(), Denial> {
    let (name, transform) = match allowed(context, &hello) {
        Ok(decision) => decision,
        Err(denial) => {
            incoming.guest.close_with(&ACCESS_DENIED).await;
            return Err(denial);
        }
    };
    incoming.permits.decided();
    let Incoming { guest, destination, held, permits: _permits } = incoming;
    let addresses = resolve(context, &name).await;
    let port = destination.port();
    let Some(transform) = transform else {
        let upstream = dial(context, &name, &addresses?, port, *destination.ip()).await?;
        context.journal.opened(Kind::Tls);
        tunnel::tunnel(guest, upstream, held, &context.journal).await;
        return Ok(());
    };
    // Only the hello is kept (16 KiB at most), and the buffer's 64 KiB go back to the pool.
    let already_read = held.filled().to_vec();
    drop(held);
    let addresses = addresses?;
    context.journal.opened(Kind::Transform);
    let connection = transform::Connection { guest, already_read, hello, name, transform, addresses, destination };
    Box::pin(transform::serve(proxy, context, connection)).await
}

/// Returns the name that a ClientHello asks for, and the transform for it, if the policy allows the name.
fn allowed(context: &EgressContext, hello: &ClientHello) -> Result<(DomainName, Option<Transform>), Denial> {
    let name = match (&hello.server_name, hello.encrypted) {
        (Some(name), _) => name.clone(),
        // The inner hello would name the server, and only the server can decrypt it.
        (None, true) => return Err(Denial::EncryptedHello),
        (None, false) => return Err(Denial::NoName),
    };
    match context.evaluator.name(&name)? {
        Passage::Opaque if hello.encrypted => Err(Denial::EncryptedHello),
        Passage::Opaque => Ok((name, None)),
        // A hidden name does not matter where TLS ends here: the proxy has no key for it, so the handshake is for
        // the visible name, and every request is held to that.
        Passage::Transform(transform) => {
            let transform = transform.clone();
            Ok((name, Some(transform)))
        }
    }
}
