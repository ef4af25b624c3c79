//! Serves protocols that show no name and in which the server speaks first, such as SSH, SMTP, FTP, MySQL and IMAP.
//!
//! Such a connection may pass if this sandbox's name server has recently answered the dialled address for an allowed
//! name.
//! Many names can live at one address, though, and in TLS and HTTP the guest's first bytes would choose another one of
//! them. So none of the guest's bytes is passed on before the server has spoken, which a TLS or HTTP server never
//! does first. The guest's bytes are read meanwhile: if they turn out to be TLS or HTTP, the connection is decided by
//! the name in them.
//!
//! ```text
//!  300 ms of silence, ─► dial the very ─► both are listened to ─┬─ the server speaks ──► opaque from now on
//!  or foreign bytes      address                                ├─ the guest: TLS, HTTP ► by name
//!                                                               └─ 5 s ────────────────► refused
//! ```
//!
//! Ports 80 and 443 are excluded. An HTTP answer (`408 Request Timeout`) or a TLS alert does not count as a greeting: a
//! server of those protocols sends them when it has waited for the client in vain.

use crate::buffer::Buffer;
use crate::context::EgressContext;
use crate::dial::dial;
use crate::incoming::Incoming;
use crate::sniff::{FirstBytes, classify, fill};
use crate::tunnel::reset;
use leapbox_egress_policy::stream::MAX_FIRST_BYTES;
use leapbox_egress_policy::{Denial, DomainName};
use std::net::SocketAddrV4;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::timeout;

// For the server's greeting. Where both sides wait for each other, the guest is refused after this, instead of waiting
// for as long as its program does.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// An allowed name that was recently answered for the address that the guest has dialled.
pub(crate) struct Candidate(DomainName);

/// The side that has spoken first.
pub(crate) enum FirstSpeaker {
    Server(TcpStream),
    /// The guest has shown a name.
    Guest(FirstBytes),
    /// The guest has reset its connection.
    Gone,
}

/// Returns the name that stands for a destination, if a server that speaks first may be waited for there.
pub(crate) fn candidate(context: &EgressContext, destination: SocketAddrV4) -> Option<Candidate> {
    // The ports of the web, where many names share an address and no server speaks first.
    if matches!(destination.port(), 80 | 443) {
        return None;
    }
    let name = context.name_server.answered(*destination.ip())?;
    // The name server's cache only says that the name was allowed when it was asked for; the policy is the authority.
    context.evaluator.name(&name).ok()?;
    Some(Candidate(name))
}

/// Dials the destination and waits for either side to speak.
///
/// # Errors
/// [`Denial::ServerSilent`] if the server does not, [`Denial::Address`] or [`Denial::Upstream`] if it cannot be
/// reached, and [`Denial::Malformed`] if the guest's bytes are broken TLS or HTTP.
pub(crate) async fn wait(
    context: &EgressContext,
    incoming: &mut Incoming,
    candidate: &Candidate,
) -> Result<FirstSpeaker, Denial> {
    let (address, port) = (*incoming.destination.ip(), incoming.destination.port());
    // The very address that the guest has dialled, because without a name on the wire nothing else says whom it wants.
    let upstream = dial(context, &candidate.0, &[address], port, address).await?;
    let silent = || Denial::ServerSilent { name: candidate.0.clone() };
    let (mut from_guest, _) = incoming.guest.split();
    let event = timeout(GREETING_TIMEOUT, listen(&upstream, &mut from_guest, &mut incoming.held)).await;
    if matches!(event, Ok(Ok(FirstEvent::Greeting))) {
        return Ok(FirstSpeaker::Server(upstream));
    }
    reset(&upstream);
    match event {
        Ok(Ok(FirstEvent::Name(first_bytes))) => Ok(FirstSpeaker::Guest(first_bytes)),
        Ok(Ok(FirstEvent::Reset)) => Ok(FirstSpeaker::Gone),
        Ok(Ok(FirstEvent::Greeting | FirstEvent::NoGreeting)) | Err(_) => Err(silent()),
        Ok(Err(denial)) => Err(denial),
    }
}

/// The first event on either side.
enum FirstEvent {
    /// The server has sent a greeting.
    Greeting,
    /// The server has closed its side, or sent something that is not a greeting.
    NoGreeting,
    /// The guest's bytes show a name.
    Name(FirstBytes),
    /// The guest has reset its connection.
    Reset,
}

/// Waits for the first event; the guest's bytes stay in `held`.
async fn listen(upstream: &TcpStream, from_guest: &mut ReadHalf<'_>, held: &mut Buffer) -> Result<FirstEvent, Denial> {
    let mut listening = true;
    loop {
        tokio::select! {
            greeted = server_speaks(upstream) => {
                return Ok(if greeted { FirstEvent::Greeting } else { FirstEvent::NoGreeting });
            }
            read = fill(held, from_guest, MAX_FIRST_BYTES), if listening => match read {
                // The guest has closed its side, or the buffer is full. From now on only the server can decide.
                Ok(0) => listening = false,
                Ok(_) => match classify(held.filled())? {
                    Some(named @ (FirstBytes::Tls(_) | FirstBytes::Http(_))) => return Ok(FirstEvent::Name(named)),
                    Some(FirstBytes::Foreign) | None => {}
                },
                Err(_) => return Ok(FirstEvent::Reset),
            },
        }
    }
}

/// Waits until the server sends something or closes its side. Returns whether it has sent a greeting.
async fn server_speaks(upstream: &TcpStream) -> bool {
    // Peeked, not read: the bytes pass to the guest through the tunnel.
    let mut beginning = [0; 5];
    match upstream.peek(&mut beginning).await {
        Ok(0) | Err(_) => false,
        Ok(n) => is_greeting(&beginning[..n]),
    }
}

/// Whether a server's first bytes (five of them, or fewer) are a greeting.
fn is_greeting(beginning: &[u8]) -> bool {
    let http = b"HTTP/";
    let alert = [0x15, 0x03];
    // HTTP/2 without TLS may begin with the server's settings: a frame's length, whose first byte is zero. No greeting
    // of a protocol in which the server speaks first begins with a zero.
    if beginning.starts_with(&[0]) {
        return false;
    }
    // Fewer bytes than the whole mark count as the mark: more of it may be under way.
    !(beginning.starts_with(http)
        || http.starts_with(beginning)
        || beginning.starts_with(&alert)
        || alert.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::is_greeting;

    #[test]
    fn greetings_count_and_answers_to_silence_do_not() {
        for greeting in [&b"SSH-2.0-x"[..], b"220 m", b"* OK ", b"+OK P", b"J\0\0\0\x0a", b"HELLO", b"\x15\0\0\0\x0a"] {
            assert!(is_greeting(&greeting[..5]), "{greeting:?}");
        }
        for answer in [&b"HTTP/"[..], b"HT", b"H", b"\x15\x03\x03\x00\x02", b"\x15", b"\0\0\x06\x04\0", b"\0"] {
            assert!(!is_greeting(answer), "{answer:?}");
        }
    }
}
