//! Opaque bytes both ways between a guest and the server that was decided for it.
//!
//! Both directions are polled by the connection's one task. A side that has finished sending is told to the other
//! (half-close), which may go on; an error of either side is passed on as a reset. There is no idle limit, as there is
//! none through NAT: a side that has vanished is found by TCP's keepalive.

use crate::buffer::{Buffer, ROOM};
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

/// Joins both sides until both have ended. `held` is what the guest has said already.
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

/// Makes the coming close of a server's connection a reset.
pub(crate) fn reset(upstream: &TcpStream) {
    if let Err(error) = upstream.set_zero_linger() {
        tracing::debug!(error = %chain(&error), "a server's connection is closed without a reset");
    }
}

/// One direction.
pub(crate) struct Pump<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    held: Buffer,
    stage: Stage,
    moved: &'a AtomicU64,
    /// Looks at the first answer, when it decides how the other direction goes on.
    watch: Option<StatusWatch>,
}

enum Stage {
    Open,
    /// Everything was read; the other side is told when it has everything.
    Ending,
    Ended,
}

impl<'a> Pump<'a> {
    pub(crate) fn new(from: ReadHalf<'a>, to: WriteHalf<'a>, held: Buffer, moved: &'a AtomicU64) -> Self {
        Self { from, to, held, stage: Stage::Open, moved, watch: None }
    }

    /// The same pump with an eye on the first answer.
    pub(crate) fn watched_by(self, watch: Option<StatusWatch>) -> Self {
        Self { watch, ..self }
    }

    /// Moves what can be moved; ready when the stream has ended and the other side was told.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.held.is_empty() {
                let n = ready!(self.held.poll_drain(cx, &mut self.to, ROOM))?;
                self.moved.fetch_add(n as u64, Ordering::Relaxed);
            }
            match self.stage {
                Stage::Open => {
                    if ready!(self.held.poll_fill(cx, &mut self.from, ROOM))? == 0 {
                        self.stage = Stage::Ending;
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
