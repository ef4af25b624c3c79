//! Reads a plain connection's requests one by one and passes them on to the server.

use super::Stop;
use crate::buffer::{Buffer, CAPACITY};
use crate::sniff::fill;
use crate::tunnel::Pump;
use leapbox_egress_policy::Denial;
use leapbox_egress_policy::stream::{Chunks, Framing, Head, MAX_FIRST_BYTES, Progress, Upgrade, http};
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::oneshot;

/// The guest's side of a connection, read request by request.
pub(super) struct Requests<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    held: Buffer,
    /// Names of the headers that are removed from every request, in lower case.
    removed: Vec<String>,
    moved: &'a AtomicU64,
}

/// The part of a body that is still to come.
enum Rest {
    Length(u64),
    Chunked(Chunks),
    Nothing,
}

impl<'a> Requests<'a> {
    pub(super) fn new(
        from: ReadHalf<'a>,
        to: WriteHalf<'a>,
        held: Buffer,
        removed: Vec<String>,
        moved: &'a AtomicU64,
    ) -> Self {
        Self { from, to, held, removed, moved }
    }

    /// Passes on the first request, whose head was read and allowed, and all that follow. `switched` is set if the
    /// first one asks for a WebSocket; it resolves to whether the server has agreed.
    pub(super) async fn run(mut self, first: Head, switched: Option<oneshot::Receiver<bool>>) -> Result<(), Stop> {
        self.pass(&first, switched.is_some()).await?;
        // Nothing is read before the server has answered: only then is it known whether the guest's next bytes are
        // frames of a WebSocket or a request.
        if let Some(switched) = switched
            && switched.await == Ok(true)
        {
            let mut rest = Pump::new(self.from, self.to, self.held, self.moved);
            return poll_fn(|cx| rest.poll(cx)).await.map_err(Stop::Broken);
        }
        while let Some(head) = self.next().await? {
            if head.host != first.host {
                return Err(Stop::Denied(Denial::Authority { name: first.host }));
            }
            self.pass(&head, false).await?;
        }
        self.to.shutdown().await.map_err(Stop::Broken)
    }

    /// Reads the next head, or `None` if the guest has closed its side between two requests.
    async fn next(&mut self) -> Result<Option<Head>, Stop> {
        loop {
            match http::read(self.held.filled()).map_err(Stop::Denied)? {
                Progress::Done(head) => return Ok(Some(head)),
                // The reader refuses a head that is not complete within MAX_FIRST_BYTES, so the buffer has space left
                // and a `fill` of 0 bytes is the end of the stream.
                Progress::More => {}
                Progress::Other => {
                    let what = "something that is no HTTP/1 request after one";
                    return Err(Stop::Denied(Denial::Malformed { what }));
                }
            }
            if self.fill(MAX_FIRST_BYTES).await? == 0 {
                return if self.held.is_empty() { Ok(None) } else { Err(truncated()) };
            }
        }
    }

    /// Passes on one request, whose head is at the beginning of `held`.
    async fn pass(&mut self, head: &Head, keeps_upgrade: bool) -> Result<(), Stop> {
        let mut cleared = head.length;
        if let Some(text) = self.rewritten(head, keeps_upgrade) {
            self.to.write_all(&text).await.map_err(Stop::Broken)?;
            self.moved.fetch_add(text.len() as u64, Ordering::Relaxed);
            self.held.consume(head.length);
            cleared = 0;
        }
        let mut rest = Rest::of(&head.framing);
        loop {
            // `cleared` counts what may pass: the head goes out with the body's beginning in one system call.
            cleared += rest.take(&self.held.filled()[cleared..]).map_err(Stop::Denied)?;
            while cleared > 0 {
                let n = poll_fn(|cx| self.held.poll_drain(cx, &mut self.to, cleared)).await.map_err(Stop::Broken)?;
                self.moved.fetch_add(n as u64, Ordering::Relaxed);
                cleared -= n;
            }
            if matches!(rest, Rest::Nothing) {
                return Ok(());
            }
            if self.fill(CAPACITY).await? == 0 {
                return Err(truncated());
            }
        }
    }

    async fn fill(&mut self, most: usize) -> Result<usize, Stop> {
        fill(&mut self.held, &mut self.from, most).await.map_err(Stop::Broken)
    }

    /// Returns the head without the headers that are to be removed, or `None` if it has none of them.
    fn rewritten(&self, head: &Head, keeps_upgrade: bool) -> Option<Vec<u8>> {
        // A server that agreed to `h2c` or `TLS/1.0` would make the connection opaque while it is still read as HTTP/1.
        let drops_upgrade = head.upgrade != Upgrade::None && !keeps_upgrade;
        if self.removed.is_empty() && !drops_upgrade {
            return None;
        }
        let is_removed = |name: &str| self.removed.iter().any(|removed| same_field(removed, name));
        head.without(|name| is_removed(name) || (drops_upgrade && name == "upgrade"))
    }
}

impl Rest {
    fn of(framing: &Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Nothing,
            Framing::Length(length) => Self::Length(*length),
            Framing::Chunked => Self::Chunked(Chunks::new()),
        }
    }

    /// Takes the connection's next bytes and returns how many of them belong to the body.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Denial> {
        let (taken, done) = match self {
            Self::Nothing => (0, true),
            Self::Length(left) => {
                let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Self::Chunked(chunks) => chunks.feed(bytes)?,
        };
        if done {
            *self = Self::Nothing;
        }
        Ok(taken)
    }
}

/// Whether a request asks to switch to a WebSocket and to nothing else. It is the one protocol that may follow on a
/// plain connection, because its bytes belong to this one request.
pub(super) fn asks_for_websocket(head: &Head) -> bool {
    let lines = head.bytes().split(|byte| *byte == b'\n').skip(1);
    let mut asked = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        name.eq_ignore_ascii_case(b"upgrade").then(|| value[1..].trim_ascii())
    });
    let is_websocket = asked.next().is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    is_websocket && asked.next().is_none() && head.method == "GET" && head.framing == Framing::None
}

/// Whether applications take two header names for the same one.
fn same_field(removed: &str, name: &str) -> bool {
    // CGI and WSGI make `_` of `-`, and some servers of other characters too, so that `x_token` would stand for
    // `x-token`.
    let normal = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    removed.bytes().map(normal).eq(name.bytes().map(normal))
}

fn truncated() -> Stop {
    Stop::Broken(io::ErrorKind::UnexpectedEof.into())
}
