//! Passes opaque bytes both ways between a guest and the server that was decided for it.
//!
//! The connection's one task polls both directions. When one side has finished sending, the other one's is closed for
//! writing (half-close) and may go on sending; an error of either side is passed on as a reset. There is no idle limit,
//! as there is none through NAT: TCP's keepalive finds a side that has vanished.

use crate::buffer::{Buffer, CAPACITY};
use crate::guest::GuestStream;
use crate::journal::Journal;
use crate::status::StatusWatch;
use leapbox_errors::chain;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Passes bytes until both sides have ended. `held` has the bytes that the guest has sent before.
pub(crate) async fn tunnel(mut guest: GuestStream, mut upstream: TcpStream, held: Buffer, journal: &Journal) {
    let ended = {
        let (from_guest, to_guest) = guest.split();
        let (from_server, to_server) = upstream.split();
        let mut up = Pump::new(from_guest, to_server, held, journal.bytes_from_sandbox());
        let mut down = Pump::new(from_server, to_guest, Buffer::default(), journal.bytes_to_sandbox());
        poll_fn(|cx| {
            let up = up.poll(cx)?;
            let down = down.poll(cx)?;
            if up.is_ready() && down.is_ready() { Poll::Ready(Ok::<_, io::Error>(())) } else { Poll::Pending }
        })
        .await
    };
    match ended {
        Ok(()) => guest.finish(),
        Err(error) => {
            tracing::debug!(error = %chain(&error), "a tunnel broke off");
            reset(&upstream);
        }
    }
}

/// Makes the close that follows a reset, so that the server can tell a broken connection from an ended one.
pub(crate) fn reset(upstream: &TcpStream) {
    if let Err(error) = upstream.set_zero_linger() {
        tracing::debug!(error = %chain(&error), "a server's connection is closed without a reset");
    }
}

/// One direction of a connection.
pub(crate) struct Pump<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    held: Buffer,
    stage: Stage,
    moved: &'a AtomicU64,
    /// Set if the first answer decides how the other direction is read.
    watch: Option<StatusWatch>,
}

enum Stage {
    Open,
    /// The source has ended; the sink is closed for writing once it has everything.
    Ending,
    Ended,
}

impl<'a> Pump<'a> {
    pub(crate) fn new(from: ReadHalf<'a>, to: WriteHalf<'a>, held: Buffer, moved: &'a AtomicU64) -> Self {
        Self { from, to, held, stage: Stage::Open, moved, watch: None }
    }

    pub(crate) fn watched_by(self, watch: Option<StatusWatch>) -> Self {
        Self { watch, ..self }
    }

    /// Moves the bytes that can be moved. Ready once the source has ended and the sink is closed for writing.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.held.is_empty() {
                let n = ready!(self.held.poll_drain(cx, &mut self.to, CAPACITY))?;
                self.moved.fetch_add(n as u64, Ordering::Relaxed);
            }
            match self.stage {
                Stage::Open => {
                    if ready!(self.held.poll_fill(cx, &mut self.from, CAPACITY))? == 0 {
                        self.stage = Stage::Ending;
                        // Dropping the watch tells its receiver that there was no switch.
                        self.watch = None;
                    } else if let Some(watch) = &mut self.watch
                        && watch.see(self.held.filled()).is_break()
                    {
                        self.watch = None;
                    }
                }
                Stage::Ending => {
                    ready!(Pin::new(&mut self.to).poll_shutdown(cx))?;
                    self.stage = Stage::Ended;
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}
