//! The guest's end of a proxied connection.
//!
//! A socket that lingers keeps its namespace alive, and with it a slot that was given back. So a guest's connection is
//! reset when it is dropped, unless it was ended in order; then what is still to be delivered has ten seconds.

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

/// For the last bytes and the FIN to be acknowledged, in ms.
const DELIVERY_MS: u32 = 10_000;
/// For a guest to take a last word and hang up.
const FAREWELL: Duration = Duration::from_secs(1);
/// What is read and thrown away meanwhile: closing over unread bytes would reset, and the last word would be lost.
const FAREWELL_BYTES: usize = 256 * 1024;

/// A connection from the guest. Dropping it resets it, unless it was shut down or finished.
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

    /// Marks an orderly end: dropping it closes, and does not reset.
    pub(crate) fn finish(&mut self) {
        let bounded = setsockopt(&self.stream, sockopt::TcpUserTimeout, &DELIVERY_MS);
        self.finished = bounded.is_ok();
    }

    /// Says a last word and closes, politely but briefly.
    pub(crate) async fn farewell(mut self, word: &[u8]) {
        let farewell = async {
            self.write_all(word).await?;
            self.shutdown().await?;
            let mut rest = vec![0; 8 * 1024];
            let mut seen = 0;
            while seen < FAREWELL_BYTES {
                match self.read(&mut rest).await? {
                    0 => break,
                    n => seen += n,
                }
            }
            io::Result::Ok(())
        };
        if !matches!(timeout(FAREWELL, farewell).await, Ok(Ok(()))) {
            tracing::debug!("a guest did not take the last word");
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
