//! A WebSocket after its handshake: relays bytes both ways without reading them, until both sides have ended, one
//! breaks, or nothing moves for too long.
//!
//! When a side has finished sending, its end is passed on (half-close), and the other may go on. A tunnel counts as a
//! client connection and as one of its sandbox's requests. Shutdown waits for it as long as for a request, and then
//! drops it. `upgrade.rs` starts it.

use crate::client::Client;
use crate::pool::RequestPermit;
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

/// Bytes that a tunnel holds in each direction: the plaintext of the largest TLS record (RFC 8446 §5.1).
const BUFFER: usize = 16 * 1024;
/// Time for both sides to take their end of a tunnel.
// A client whose network is gone never takes it, and the tunnel's permits are held until then.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts a task that relays between both sides once both upgrades are complete.
pub(crate) fn tunnel(
    client_side: OnUpgrade,
    app_side: OnUpgrade,
    driver: AbortOnDrop,
    permit: RequestPermit,
    client: &Arc<Client>,
    idle: Duration,
) {
    let client = Arc::clone(client);
    count(&client.counters().tunnels);
    tokio::spawn(async move {
        let _permit = permit;
        let _open = client.open_request();
        // hyper completes the client's upgrade once it has written our answer, which a client that does not read holds
        // up.
        let sides = timeout(idle, async { tokio::try_join!(client_side, app_side) }).await;
        drop(driver);
        match sides {
            Ok(Ok((one, other))) => relay(TokioIo::new(one), TokioIo::new(other), &client, idle).await,
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "an upgrade to WebSocket was not completed"),
            Err(_) => tracing::debug!("an upgrade to WebSocket was not completed in time"),
        }
    });
}

/// Relays until both directions have ended, one fails, or the tunnel is idle, and then closes both sides in order.
async fn relay<C, A>(mut client_side: C, mut app_side: A, client: &Client, idle: Duration)
where
    C: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    let counters = client.counters();
    let activity = ActivityCounter::default();
    {
        let (client_read, client_write) = tokio::io::split(&mut client_side);
        let (app_read, app_write) = tokio::io::split(&mut app_side);
        let both = async {
            tokio::try_join!(
                pump(client_read, app_write, &activity, client, &counters.bytes_to_sandboxes),
                pump(app_read, client_write, &activity, client, &counters.bytes_from_sandboxes),
            )
        };
        tokio::select! {
            ended = both => if let Err(error) = ended {
                tracing::debug!(error = %chain(&error), "a WebSocket tunnel broke off");
            },
            () = activity.idle_for(idle) => count(&counters.tunnels_idle),
        }
    }
    // A close_notify on the client's side: without it an idle time-out looks like a broken network, or an attack.
    let shutdown = async { tokio::join!(client_side.shutdown(), app_side.shutdown()) };
    if timeout(SHUTDOWN_TIMEOUT, shutdown).await.is_err() {
        tracing::debug!("a side of a WebSocket tunnel was not closed in order in time");
    }
}

/// Counts the reads and writes of a tunnel, so that its idle time can be measured.
#[derive(Default)]
struct ActivityCounter(AtomicU64);

impl ActivityCounter {
    fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns once nothing was noted for `idle`, at most a quarter of it late.
    async fn idle_for(&self, idle: Duration) {
        let mut seen = self.0.load(Ordering::Relaxed);
        let mut since = Instant::now();
        // Four wake-ups per idle time instead of a timer that is set anew for every message.
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

/// Copies one direction to its end, and then passes the end on.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    activity: &ActivityCounter,
    client: &Client,
    bytes: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        activity.note();
        client.note_activity();
        to.write_all(&buffer[..n]).await?;
        // TLS may hold written bytes back until it is flushed, and a message must not wait for the next one.
        to.flush().await?;
        // Again, because a slow reader that has taken the bytes at last is not idle.
        activity.note();
        add(bytes, n);
    }
}
