//! Looks at the answer to a request that asks to switch protocols: did the server switch?
//!
//! The answer passes by unchanged; only status lines are read, of as many interim answers (1xx) as come before the final
//! one. Whatever is not understood counts as "not switched", after which the guest's bytes are read strictly again.

use std::ops::ControlFlow;
use tokio::sync::oneshot;

/// Interim answers and a status line are longer than this only by intent.
const MOST: usize = 16 * 1024;
/// `HTTP/1.1 101`.
const STATUS: usize = 12;

/// Tells once whether the first final answer was `101 Switching Protocols`.
pub(crate) struct StatusWatch {
    tell: Option<oneshot::Sender<bool>>,
    seen: Vec<u8>,
}

impl StatusWatch {
    pub(crate) fn new() -> (Self, oneshot::Receiver<bool>) {
        let (tell, told) = oneshot::channel();
        (Self { tell: Some(tell), seen: Vec::new() }, told)
    }

    /// Takes the next bytes of the answer; breaks once it has told.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        let room = MOST - self.seen.len();
        self.seen.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let switched = loop {
            match final_status(&self.seen) {
                Look::Final(code) => break code == *b"101",
                Look::Interim(length) => drop(self.seen.drain(..length)),
                Look::More if self.seen.len() < MOST => return ControlFlow::Continue(()),
                Look::More | Look::Strange => break false,
            }
        };
        if let Some(tell) = self.tell.take() {
            // The other direction may have ended meanwhile.
            let _ = tell.send(switched);
        }
        ControlFlow::Break(())
    }
}

enum Look {
    More,
    Final([u8; 3]),
    /// A whole interim answer of so many bytes.
    Interim(usize),
    Strange,
}

fn final_status(seen: &[u8]) -> Look {
    let Some(line) = seen.first_chunk::<STATUS>() else { return Look::More };
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', code @ ..] = *line else { return Look::Strange };
    if code[0] != b'1' || code == *b"101" {
        return Look::Final(code);
    }
    match seen.windows(4).position(|end| end == b"\r\n\r\n") {
        Some(at) => Look::Interim(at + 4),
        None => Look::More,
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
        let endless = [b"HTTP/1.1 100 Continue\r\n".as_slice(), &[b'a'; MOST]].concat();
        assert_eq!(told(&endless, 1000), Some(false));
    }
}
