//! The guest's connection as TLS reads it: the bytes that were read to decide come first. It counts the bytes both
//! ways.

use crate::guest::GuestStream;
use crate::journal::Journal;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A guest's stream with the bytes that were read from it already.
pub(crate) struct Prefixed {
    already_read: Vec<u8>,
    /// The number of those bytes that TLS has read.
    passed: usize,
    stream: GuestStream,
    journal: Arc<Journal>,
}

impl Prefixed {
    pub(crate) fn new(already_read: Vec<u8>, stream: GuestStream, journal: &Arc<Journal>) -> Self {
        Self { already_read, passed: 0, stream, journal: Arc::clone(journal) }
    }

    fn wrote(&self, n: usize) -> Poll<io::Result<usize>> {
        self.journal.bytes_to_sandbox().fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(n))
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        if this.already_read.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
        } else {
            let left = &this.already_read[this.passed..];
            let n = left.len().min(into.remaining());
            into.put_slice(&left[..n]);
            this.passed += n;
            if this.passed == this.already_read.len() {
                (this.already_read, this.passed) = (Vec::new(), 0);
            }
        }
        let n = into.filled().len() - before;
        this.journal.bytes_from_sandbox().fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let n = ready!(Pin::new(&mut this.stream).poll_write(cx, from))?;
        this.wrote(n)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let n = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, from))?;
        this.wrote(n)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
