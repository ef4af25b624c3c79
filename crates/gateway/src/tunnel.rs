//! A WebSocket after its handshake: bytes both ways, unread, until one side ends or nothing moves for too long.
//!
//! A side that has finished sending is told to the other (half-close), which may go on. An idle tunnel is closed in
//! order (TLS close_notify), so that a client can tell it from a broken network. A tunnel counts as a client connection
//! and as one of its sandbox's requests; shutdown waits for it within its bounds and then drops it.

use crate::client::Client;
use crate::pool::Slot;
use crate::stats::{add, count};
use crate::upstream::AbortOnDrop;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use leapbox_errors::chain;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

const BUFFER: usize = 16 * 1024;
/// For the orderly end of an idle tunnel.
const FAREWELL: Duration = Duration::from_secs(1);

/// Joins both sides in a task of its own, once both upgrades are complete.
pub(crate) fn tunnel(
    client_side: OnUpgrade,
    app_side: OnUpgrade,
    driver: AbortOnDrop,
    slot: Slot,
    client: &Arc<Client>,
    idle: Duration,
) {
    let client = Arc::clone(client);
    count(&client.counters().tunnels);
    tokio::spawn(async move {
        let _slot = slot;
        let _open = client.open_request();
        let sides = timeout(idle, async { tokio::try_join!(client_side, app_side) }).await;
        drop(driver);
        match sides {
            Ok(Ok((one, other))) => join(TokioIo::new(one), TokioIo::new(other), &client, idle).await,
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "an upgrade was not completed"),
            Err(_) => tracing::debug!("an upgrade was not completed in time"),
        }
    });
}

async fn join<C, A>(mut client_side: C, mut app_side: A, client: &Client, idle: Duration)
where
    C: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    let counters = client.counters();
    let moved = Moved::default();
    {
        let (client_read, client_write) = tokio::io::split(&mut client_side);
        let (app_read, app_write) = tokio::io::split(&mut app_side);
        let both = async {
            tokio::try_join!(
                pump(client_read, app_write, &moved, client, &counters.bytes_to_sandboxes),
                pump(app_read, client_write, &moved, client, &counters.bytes_from_sandboxes),
            )
        };
        tokio::select! {
            ended = both => if let Err(error) = ended {
                tracing::debug!(error = %chain(&error), "a tunnel broke off");
            },
            () = moved.idle_for(idle) => count(&counters.tunnels_idle),
        }
    }
    let farewell = async { tokio::join!(client_side.shutdown(), app_side.shutdown()) };
    if timeout(FAREWELL, farewell).await.is_err() {
        tracing::debug!("a tunnel's side did not take its end in time");
    }
}

/// Counts movements, for the idle clock.
#[derive(Default)]
struct Moved(AtomicU64);

impl Moved {
    fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns once nothing was noted for a whole `idle` (and at most a quarter longer).
    async fn idle_for(&self, idle: Duration) {
        let mut seen = self.0.load(Ordering::Relaxed);
        let mut since = Instant::now();
        loop {
            sleep_until(Instant::now() + idle / 4).await;
            let now = self.0.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= idle {
                return;
            }
        }
    }
}

/// Copies one direction to its end, then ends the other side's reading.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Moved,
    client: &Client,
    bytes: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        moved.note();
        client.moved();
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        moved.note();
        add(bytes, n);
    }
}
