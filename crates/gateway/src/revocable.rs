//! A socket into a sandbox that can be closed under its user.
//!
//! A request or tunnel holds a [`RevocableStream`], and the pool a [`Revoker`] for it. When a sandbox ends or is
//! stored, every socket into it must be closed at once, whatever its user waits for, because an open socket keeps the
//! sandbox's network namespace alive. So the two share the socket, and the user borrows it for each operation.

use futures::task::AtomicWaker;
use leapbox_errors::chain;
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The end that a request or tunnel reads and writes.
#[derive(Debug)]
pub(crate) struct RevocableStream(Arc<Shared>);

/// The pool's end, which can close the socket. Weak, so that it does not keep a socket open that its user has dropped.
#[derive(Debug, Clone)]
pub(crate) struct Revoker(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None` once revoked.
    socket: Mutex<Option<TcpStream>>,
    /// The task that reads and writes. It is always one and the same, so a single waker is enough.
    waker: AtomicWaker,
}

impl RevocableStream {
    pub(crate) fn new(socket: TcpStream) -> (Self, Revoker) {
        let shared = Arc::new(Shared { socket: Mutex::new(Some(socket)), waker: AtomicWaker::new() });
        let revoker = Revoker(Arc::downgrade(&shared));
        (Self(shared), revoker)
    }

    /// Runs one operation on the socket, or fails with [`io::ErrorKind::ConnectionAborted`] once it was revoked.
    fn with<T>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        // Registered before the socket is looked at: a revocation in between wakes this task again.
        self.0.waker.register(cx.waker());
        match self.0.socket.lock().as_mut() {
            Some(socket) => operation(Pin::new(socket), cx),
            None => {
                let message = "the sandbox has ended or is being stored";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, message)))
            }
        }
    }
}

impl Revoker {
    /// Closes the socket at once, whatever its user waits for.
    pub(crate) fn revoke(&self) {
        let Some(shared) = self.0.upgrade() else { return };
        if let Some(socket) = shared.socket.lock().take() {
            // A reset: after an orderly close the kernel would wait for a guest that no longer answers, in a socket
            // that keeps the sandbox's network namespace alive.
            if let Err(error) = socket.set_zero_linger() {
                tracing::debug!(error = %chain(&error), "could not ask for a reset of a connection into a sandbox");
            }
        }
        shared.waker.wake();
    }

    /// Whether the stream is still in use.
    pub(crate) fn is_live(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl AsyncRead for RevocableStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(cx, |socket, cx| socket.poll_read(cx, buf))
    }
}

impl AsyncWrite for RevocableStream {
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
