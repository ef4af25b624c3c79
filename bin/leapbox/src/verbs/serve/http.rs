//! Serves plain HTTP for the control plane and the metrics, with the deadlines and limits that `axum::serve` does not
//! have. Called by `serve`.

use super::when;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use leapbox_errors::chain;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// The time a client has to send a whole request head; it bounds an idle connection as well (case 33).
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// Connections at once; more wait in the listener's queue. With the next bound, heads that are not complete yet take at
/// most 256 MiB.
const CONNECTIONS_MAX: usize = 4096;
const HEADER_BYTES_MAX: usize = 64 * 1024;
// After a connection could not be accepted, mostly for want of descriptors, the loop would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopped`, and then until the open requests are done.
pub(super) async fn serve(listener: TcpListener, router: Router, stopped: watch::Receiver<bool>) {
    serve_within(listener, router, stopped, HEADER_DEADLINE).await;
}

async fn serve_within(
    listener: TcpListener,
    router: Router,
    stopped: watch::Receiver<bool>,
    header_deadline: Duration,
) {
    // HTTP/1.1 only: hyper-util tells the versions apart by the first bytes and has no deadline for them, so a silent
    // client would stay for ever. HTTP/2 is spoken on the gateway, where TLS (ALPN) says which it is.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(header_deadline).max_buf_size(HEADER_BYTES_MAX);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stopped = when(stopped);
    tokio::pin!(stopped);
    loop {
        let next = async {
            // The permit first, so that connections beyond the limit are left in the queue instead of being accepted.
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            (permit, accepted) = next => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stopped => break,
        };
        let connection = connection(&builder, stream, router.clone());
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // Only for debugging, because it is mostly the client's doing: it hung up, or did not send HTTP.
            if let Err(error) = watched.await {
                tracing::debug!(error = %chain(error.as_ref()), "a connection ended with an error");
            }
            drop(permit);
        });
    }
    graceful.shutdown().await;
}

fn connection(
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    router: Router,
) -> impl hyper_util::server::graceful::GracefulConnection<Error: AsRef<dyn Error + Send + Sync>> + Send + use<> {
    // Without it, Nagle's algorithm may hold a small answer back until the client acknowledges the one before. A socket
    // that refuses the option still works.
    let _ = stream.set_nodelay(true);
    builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SHORT: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn case_33_a_slow_loris_is_hung_up_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (_stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve_within(listener, Router::new(), stopped, SHORT));
        let begun = Instant::now();
        let (mut reader, mut writer) = TcpStream::connect(address).await.expect("a connection").into_split();
        // Bytes without end, each sooner than the deadline: it is the whole head's.
        let drip = async {
            let mut sent = writer.write_all(b"GET / HTTP/1.1\r\nhost: ").await;
            while sent.is_ok() {
                tokio::time::sleep(SHORT / 4).await;
                sent = writer.write_all(b"x").await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        tokio::select! {
            ended = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut answer)) => {
                assert!(ended.is_ok(), "it was not hung up on");
            }
            () = drip => {}
        }
        assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
        assert!(!String::from_utf8_lossy(&answer).contains(" 404 "), "it was answered as a request");
        serving.abort();
    }
}
