//! The guest's end of a proxied connection.
//!
//! A socket that lingers after its close keeps its network namespace alive, and with it a slot that was released. So a
//! guest's connection is reset when it is dropped, unless it was ended in order; then the kernel has ten seconds for
//! what is still to be delivered.

use leapbox_errors::chain;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

// TCP_USER_TIMEOUT of a closed connection, in ms. By default the kernel keeps unacknowledged bytes, and with them the
// slot's namespace and index, for minutes.
const DELIVERY_TIMEOUT_MS: u32 = 10_000;
// For a guest to read a refusal and close its side.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
// What the guest sends meanwhile is read and dropped, up to this: Linux resets a connection that is closed over unread
// bytes, and the refusal would be lost with it.
const SHUTDOWN_BYTES: usize = 256 * 1024;

/// A connection from the guest. Dropping it resets it, unless it was shut down or finished before.
pub(crate) struct GuestStream {
    stream: TcpStream,
    finished: bool,
}

impl GuestStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, finished: false }
    }

    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        self.stream.split()
    }

    /// Marks the connection as ended in order: dropping it closes it and does not reset it.
    pub(crate) fn finish(&mut self) {
        let bounded = setsockopt(&self.stream, sockopt::TcpUserTimeout, &DELIVERY_TIMEOUT_MS);
        // Without the bound the socket could keep the namespace: then it is reset after all.
        self.finished = bounded.is_ok();
    }

    /// Sends a refusal (a TLS alert or an HTTP answer) and closes in order, within `SHUTDOWN_TIMEOUT`.
    pub(crate) async fn close_with(mut self, refusal: &[u8]) {
        let closing = async {
            self.write_all(refusal).await?;
            self.shutdown().await?;
            let mut rest = vec![0; 8 * 1024];
            let mut seen = 0;
            while seen < SHUTDOWN_BYTES {
                match self.read(&mut rest).await? {
                    0 => break,
                    n => seen += n,
                }
            }
            io::Result::Ok(())
        };
        if !matches!(timeout(SHUTDOWN_TIMEOUT, closing).await, Ok(Ok(()))) {
            tracing::debug!("a guest did not read why its connection was refused");
        }
    }
}

impl Drop for GuestStream {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(error = %chain(&error), "a guest's connection is closed without a reset");
        }
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, into)
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, from)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guest = self.get_mut();
        ready!(Pin::new(&mut guest.stream).poll_shutdown(cx))?;
        guest.finish();
        Poll::Ready(Ok(()))
    }
}
