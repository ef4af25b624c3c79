//! Watches the answer to a request that asks to switch protocols, and tells whether the server has switched.
//!
//! The answer passes unchanged. Only status lines are read, those of all interim answers (1xx) and the final one's.
//! Whatever is not understood counts as "not switched", after which the guest's bytes are read strictly again.

use std::ops::ControlFlow;
use tokio::sync::oneshot;

// Honest interim answers and a status line are far shorter. The server chooses them, and must not decide how much the
// proxy remembers.
const MAX_SEEN: usize = 16 * 1024;
/// Length of `HTTP/1.1 101`.
const STATUS_LENGTH: usize = 12;

/// Tells its receiver once whether the first final answer is `101 Switching Protocols`.
pub(crate) struct StatusWatch {
    sender: Option<oneshot::Sender<bool>>,
    seen: Vec<u8>,
}

impl StatusWatch {
    pub(crate) fn new() -> (Self, oneshot::Receiver<bool>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender: Some(sender), seen: Vec::new() }, receiver)
    }

    /// Takes the next bytes of the answer. Breaks once the receiver was told.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        let space = MAX_SEEN - self.seen.len();
        self.seen.extend_from_slice(&bytes[..bytes.len().min(space)]);
        let switched = loop {
            match final_status(&self.seen) {
                Seen::Final(code) => break code == *b"101",
                Seen::Interim(length) => drop(self.seen.drain(..length)),
                Seen::More if self.seen.len() < MAX_SEEN => return ControlFlow::Continue(()),
                Seen::More | Seen::NotHttp => break false,
            }
        };
        if let Some(sender) = self.sender.take() {
            // The other direction may have ended meanwhile.
            let _ = sender.send(switched);
        }
        ControlFlow::Break(())
    }
}

/// The bytes seen so far, as an answer.
enum Seen {
    More,
    Final([u8; 3]),
    /// A whole interim answer, with its length in bytes.
    Interim(usize),
    NotHttp,
}

fn final_status(seen: &[u8]) -> Seen {
    let Some(line) = seen.first_chunk::<STATUS_LENGTH>() else { return Seen::More };
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', code @ ..] = *line else { return Seen::NotHttp };
    if code[0] != b'1' || code == *b"101" {
        return Seen::Final(code);
    }
    match seen.windows(4).position(|end| end == b"\r\n\r\n") {
        Some(at) => Seen::Interim(at + 4),
        None => Seen::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told when the answer arrives in pieces of `size` bytes.
    fn told(answer: &[u8], size: usize) -> Option<bool> {
        let (mut watch, mut told) = StatusWatch::new();
        for piece in answer.chunks(size) {
            if watch.see(piece).is_break() {
                break;
            }
        }
        told.try_recv().ok()
    }

    #[test]
    fn a_switch_is_seen_however_the_answer_is_cut() {
        for size in 1..40 {
            assert_eq!(told(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", size), Some(true));
            assert_eq!(told(b"HTTP/1.1 103 Early Hints\r\nA: 101\r\n\r\nHTTP/1.1 101 S\r\n\r\n", size), Some(true));
            assert_eq!(told(b"HTTP/1.1 200 OK\r\n\r\n", size), Some(false));
            assert_eq!(told(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 426 Upgrade Required\r\n\r\n", size), Some(false));
        }
    }

    #[test]
    fn what_is_not_an_answer_is_not_a_switch() {
        assert_eq!(told(b"SSH-2.0-OpenSSH_9.2\r\n", 7), Some(false));
        assert_eq!(told(b"HTTP/2.0 101 Switching Protocols\r\n\r\n", 7), Some(false));
        assert_eq!(told(b"HTTP/1.1 10", 3), None);
        let endless = [b"HTTP/1.1 100 Continue\r\n".as_slice(), &[b'a'; MAX_SEEN]].concat();
        assert_eq!(told(&endless, 1000), Some(false));
    }
}
