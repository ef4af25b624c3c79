//! The memory through which bytes pass between two sockets.
//!
//! A connection holds memory only while it has bytes to pass on. A buffer takes its memory from a small pool of its
//! thread when a socket is readable, and returns it when it is drained. Idle connections, of which a server may have
//! thousands, hold none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

// Measured: larger buffers were not faster, because they fall out of the CPU's second-level cache.
/// Size of one buffer in bytes.
pub(crate) const CAPACITY: usize = 64 * 1024;
// 2 MiB a thread; what is beyond it after a burst is freed.
/// Buffers' memory that a thread keeps for the next connections.
const POOL_LIMIT: usize = 32;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read from one side and not yet written to the other.
#[derive(Default)]
pub(crate) struct Buffer {
    /// Either empty or `CAPACITY` bytes long.
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The bytes that were read and not yet written.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `n` of the filled bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.filled().len());
        self.start = (self.start + n).min(self.end);
        if self.is_empty() {
            self.return_memory();
        }
    }

    /// Reads once, until the buffer holds at most `most` bytes. 0 means the end of the stream, or a buffer that is full
    /// already.
    pub(crate) fn poll_fill<R>(&mut self, cx: &mut Context<'_>, from: &mut R, most: usize) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + AsRef<TcpStream> + Unpin,
    {
        // Memory is taken only once the socket is readable, not while it is waited for.
        ready!((*from).as_ref().poll_read_ready(cx))?;
        self.make_space();
        let limit = most.min(CAPACITY).max(self.end);
        let mut space = ReadBuf::new(&mut self.memory[self.end..limit]);
        let read = Pin::new(from).poll_read(cx, &mut space);
        let n = space.filled().len();
        self.end += n;
        if self.is_empty() {
            self.return_memory();
        }
        read.map_ok(|()| n)
    }

    /// Writes at most `most` bytes once and drops what was written. The buffer must not be empty.
    pub(crate) fn poll_drain<W>(&mut self, cx: &mut Context<'_>, to: &mut W, most: usize) -> Poll<io::Result<usize>>
    where
        W: AsyncWrite + Unpin,
    {
        let pending = self.filled();
        let n = ready!(Pin::new(to).poll_write(cx, &pending[..most.min(pending.len())]))?;
        // Taken for progress, it would be an endless loop.
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.consume(n);
        Poll::Ready(Ok(n))
    }

    /// Takes memory if the buffer has none, and moves the filled bytes to its beginning.
    fn make_space(&mut self) {
        if self.memory.is_empty() {
            let kept = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
            self.memory = kept.unwrap_or_else(|| vec![0; CAPACITY].into_boxed_slice());
        } else if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    fn return_memory(&mut self) {
        (self.start, self.end) = (0, 0);
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            // While a thread ends its pool is gone already; the memory is freed then.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < POOL_LIMIT {
                    pool.push(memory);
                }
            });
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.return_memory();
    }
}
