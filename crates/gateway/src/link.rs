//! A socket into a sandbox that can be taken away.
//!
//! Whoever forwards bytes holds a [`Link`]; the pool holds a [`Cutter`] to it. When a sandbox goes, every socket into
//! it must be closed at once, whatever its user waits for, because an open socket keeps the sandbox's network namespace
//! alive. So the socket itself stays in a shared place and is borrowed for each operation.

use futures::task::AtomicWaker;
use leapbox_errors::chain;
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The user's end.
#[derive(Debug)]
pub(crate) struct Link(Arc<Shared>);

/// The end that can close the socket under its user.
#[derive(Debug, Clone)]
pub(crate) struct Cutter(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    /// Gone once cut.
    socket: Mutex<Option<TcpStream>>,
    /// The user's task. Reading and writing are always done by the same one.
    waker: AtomicWaker,
}

impl Link {
    pub(crate) fn new(socket: TcpStream) -> (Self, Cutter) {
        let shared = Arc::new(Shared { socket: Mutex::new(Some(socket)), waker: AtomicWaker::new() });
        let cutter = Cutter(Arc::downgrade(&shared));
        (Self(shared), cutter)
    }

    /// Runs one operation on the socket, unless it was cut.
    fn with<T>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        // Before the look at the socket, so that a cut in between is not slept through.
        self.0.waker.register(cx.waker());
        match self.0.socket.lock().as_mut() {
            Some(socket) => operation(Pin::new(socket), cx),
            None => Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the sandbox is gone"))),
        }
    }
}

impl Cutter {
    /// Closes the socket now.
    pub(crate) fn cut(&self) {
        let Some(shared) = self.0.upgrade() else { return };
        if let Some(socket) = shared.socket.lock().take() {
            // A reset: an orderly end would leave the kernel waiting for a guest that no longer answers.
            if let Err(error) = socket.set_zero_linger() {
                tracing::debug!(error = %chain(&error), "could not ask for a reset of a connection into a sandbox");
            }
        }
        shared.waker.wake();
    }

    /// Whether its link is still in use.
    pub(crate) fn is_live(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(cx, |socket, cx| socket.poll_read(cx, buf))
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(cx, |socket, cx| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(cx, |socket, cx| socket.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(cx, |socket, cx| socket.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(cx, |socket, cx| socket.poll_shutdown(cx))
    }
}
