//! Memory that bytes pass through on their way between two sockets.
//!
//! A connection holds memory only while bytes of it are under way: a buffer takes its room from a small pool of its
//! thread when a socket is readable, and gives it back when it is drained. Idle connections, of which there may be
//! thousands, hold none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Room of one buffer, in bytes. Larger ones were not faster: they fall out of the CPU's second cache.
pub(crate) const ROOM: usize = 64 * 1024;
/// Rooms that a thread keeps for the next connections.
const KEPT: usize = 32;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read from one side and not yet written to the other.
#[derive(Default)]
pub(crate) struct Buffer {
    /// Empty, or `ROOM` bytes.
    room: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What is under way.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets the first `n` bytes, which must be there.
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.filled().len());
        self.start = (self.start + n).min(self.end);
        if self.is_empty() {
            self.give_back();
        }
    }

    /// Reads once, up to `most` bytes in the buffer altogether. 0 is the end of the stream, or a full buffer.
    pub(crate) fn poll_fill<R>(&mut self, cx: &mut Context<'_>, from: &mut R, most: usize) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + AsRef<TcpStream> + Unpin,
    {
        ready!((*from).as_ref().poll_read_ready(cx))?;
        self.make_room();
        let limit = most.min(ROOM).max(self.end);
        let mut space = ReadBuf::new(&mut self.room[self.end..limit]);
        let read = Pin::new(from).poll_read(cx, &mut space);
        let n = space.filled().len();
        self.end += n;
        if self.is_empty() {
            self.give_back();
        }
        read.map_ok(|()| n)
    }

    /// Writes once and forgets what was taken. Not for an empty buffer.
    pub(crate) fn poll_drain<W>(&mut self, cx: &mut Context<'_>, to: &mut W, most: usize) -> Poll<io::Result<usize>>
    where
        W: AsyncWrite + Unpin,
    {
        let pending = self.filled();
        let n = ready!(Pin::new(to).poll_write(cx, &pending[..most.min(pending.len())]))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.consume(n);
        Poll::Ready(Ok(n))
    }

    /// Takes a room if there is none, and moves what is left to its beginning.
    fn make_room(&mut self) {
        if self.room.is_empty() {
            let kept = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
            self.room = kept.unwrap_or_else(|| vec![0; ROOM].into_boxed_slice());
        } else if self.start > 0 {
            self.room.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    fn give_back(&mut self) {
        (self.start, self.end) = (0, 0);
        let room = std::mem::take(&mut self.room);
        if !room.is_empty() {
            // A thread that ends has no pool any more: then the room is freed.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < KEPT {
                    pool.push(room);
                }
            });
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.give_back();
    }
}
