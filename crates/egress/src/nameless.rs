//! Protocols without a name to see, such as SSH, SMTP, FTP, MySQL and IMAP: the server speaks first.
//!
//! Such a connection may pass if this sandbox's resolver has lately answered the dialled address for an allowed name.
//! Many names can live at one address, though, and in TLS and HTTP the guest's first bytes would choose another one. So
//! nothing of the guest is passed on before the server has spoken, which in those protocols it never does, and what the
//! guest says meanwhile is read: where it is TLS or HTTP, it is decided by the name in it after all.
//!
//! ```text
//!  300 ms of silence, ─► dial the very ─► both are listened to ─┬─ the server speaks ──► opaque from now on
//!  or foreign bytes      address                                ├─ the guest: TLS, HTTP ► by name
//!                                                               └─ 5 s ────────────────► refused
//! ```
//!
//! Ports 80 and 443 are not for this. A server's words that are HTTP's (`408 Request Timeout`) or a TLS alert do not
//! count: they are what a server says that has waited for a guest of those protocols.

use crate::buffer::Buffer;
use crate::dial::dial;
use crate::first::{Spoken, classify, fill};
use crate::gate::Gate;
use crate::incoming::Incoming;
use crate::tunnel::reset;
use leapbox_egress_policy::stream::MAX_FIRST_BYTES;
use leapbox_egress_policy::{Denial, DomainName};
use std::net::SocketAddrV4;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::timeout;

/// For the server to speak.
const PATIENCE: Duration = Duration::from_secs(5);

/// An allowed name that was lately answered for the address the guest has dialled.
pub(crate) struct Candidate(DomainName);

/// Who has spoken.
pub(crate) enum Turn {
    Server(TcpStream),
    Guest(Spoken),
    /// Nobody: the guest has reset its connection.
    Gone,
}

/// Whether a destination may be waited at without a name.
pub(crate) fn candidate(gate: &Gate, destination: SocketAddrV4) -> Option<Candidate> {
    if matches!(destination.port(), 80 | 443) {
        return None;
    }
    let name = gate.names.answered(*destination.ip())?;
    // The memory may be older than nothing: the policy never changes, but what it says is what counts.
    gate.evaluator.name(&name).ok()?;
    Some(Candidate(name))
}

/// Dials the destination and waits for either side to speak.
///
/// # Errors
/// If nobody does, the server can't be reached, or the guest says something that is neither right nor foreign.
pub(crate) async fn wait(gate: &Gate, incoming: &mut Incoming, candidate: &Candidate) -> Result<Turn, Denial> {
    let (address, port) = (*incoming.destination.ip(), incoming.destination.port());
    let upstream = dial(gate, &candidate.0, &[address], port, address).await?;
    let silent = || Denial::ServerSilent { name: candidate.0.clone() };
    let (mut from_guest, _) = incoming.guest.split();
    let heard = timeout(PATIENCE, listen(&upstream, &mut from_guest, &mut incoming.held)).await;
    if matches!(heard, Ok(Ok(Heard::Greeting))) {
        return Ok(Turn::Server(upstream));
    }
    reset(&upstream);
    match heard {
        Ok(Ok(Heard::Name(spoken))) => Ok(Turn::Guest(spoken)),
        Ok(Ok(Heard::Reset)) => Ok(Turn::Gone),
        Ok(Ok(Heard::Greeting | Heard::NoGreeting)) | Err(_) => Err(silent()),
        Ok(Err(denial)) => Err(denial),
    }
}

enum Heard {
    /// The server has spoken of its own accord.
    Greeting,
    /// It has hung up, or said what is no greeting.
    NoGreeting,
    /// The guest has said a name.
    Name(Spoken),
    /// The guest is gone.
    Reset,
}

/// Listens to both sides; what the guest says meanwhile is held.
async fn listen(upstream: &TcpStream, from_guest: &mut ReadHalf<'_>, held: &mut Buffer) -> Result<Heard, Denial> {
    let mut listening = true;
    loop {
        tokio::select! {
            is_greeting = server_speaks(upstream) => {
                return Ok(if is_greeting { Heard::Greeting } else { Heard::NoGreeting });
            }
            read = fill(held, from_guest, MAX_FIRST_BYTES), if listening => match read {
                // That was all it has to say, or all there is room for: now it is the server's turn.
                Ok(0) => listening = false,
                Ok(_) => match classify(held.filled())? {
                    spoken @ (Spoken::Tls(_) | Spoken::Http(_)) => return Ok(Heard::Name(spoken)),
                    Spoken::Partial | Spoken::Foreign => {}
                },
                Err(_) => return Ok(Heard::Reset),
            },
        }
    }
}

/// Returns when the server has said something, or hung up: whether it has spoken of its own accord.
async fn server_speaks(upstream: &TcpStream) -> bool {
    let mut word = [0; 5];
    match upstream.peek(&mut word).await {
        Ok(0) | Err(_) => false,
        Ok(n) => is_own_accord(&word[..n]),
    }
}

/// Whether a server's first bytes are not those of one that goes by names: an answer to silence of HTTP (`HTTP/`) or of
/// TLS (an alert record), or the settings with which HTTP/2 without TLS may begin (a frame's length, whose first byte is
/// zero; no greeting of a protocol in which the server begins has one).
fn is_own_accord(word: &[u8]) -> bool {
    let http = b"HTTP/";
    let alert = [0x15, 0x03];
    if word.starts_with(&[0]) {
        return false;
    }
    !(word.starts_with(http) || http.starts_with(word) || word.starts_with(&alert) || alert.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::is_own_accord;

    #[test]
    fn greetings_count_and_answers_to_silence_do_not() {
        for greeting in [&b"SSH-2.0-x"[..], b"220 m", b"* OK ", b"+OK P", b"J\0\0\0\x0a", b"HELLO", b"\x15\0\0\0\x0a"] {
            assert!(is_own_accord(&greeting[..5]), "{greeting:?}");
        }
        for answer in [&b"HTTP/"[..], b"HT", b"H", b"\x15\x03\x03\x00\x02", b"\x15", b"\0\0\x06\x04\0", b"\0"] {
            assert!(!is_own_accord(answer), "{answer:?}");
        }
    }
}
