//! Plain HTTP for the control plane and the metrics, with the deadlines and limits that `axum::serve` has not.

use super::when;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// For a whole request head; it bounds an idle connection as well.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// Connections at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 4096;
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// After a connection could not be taken (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop, then finishes what is open.
pub(super) async fn serve(listener: TcpListener, router: Router, stopped: watch::Receiver<bool>) {
    // HTTP/1.1 only: telling the versions apart has no deadline, so a silent client would stay for ever. HTTP/2 is spoken
    // on the gateway, where TLS says which it is.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE).max_buf_size(HEADER_BYTES_MAX);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stopped = when(stopped);
    tokio::pin!(stopped);
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            (permit, accepted) = next => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stopped => break,
        };
        let connection = connection(&builder, stream, router.clone());
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // The client's own doing, mostly: it hung up, or sent what is not HTTP.
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended with an error");
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
) -> impl hyper_util::server::graceful::GracefulConnection<Error: std::fmt::Display> + Send + use<> {
    // Small answers must not wait for an acknowledgement; a socket that refuses still works.
    let _ = stream.set_nodelay(true);
    builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).into_owned()
}
