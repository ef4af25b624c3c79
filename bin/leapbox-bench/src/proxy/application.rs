//! The application both proxies stand before: `/<n>` answers n bytes.

use super::ProxyError;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use leapbox_errors::chain;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Bytes of a small answer.
pub(super) const SMALL: usize = 128;
/// Bytes of a large one.
pub(super) const BULK: usize = 1024 * 1024;

/// It runs in a thread of its own until dropped.
pub(super) struct Application {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Application {
    pub(super) fn start() -> Result<Self, ProxyError> {
        let listener =
            std::net::TcpListener::bind("127.0.0.1:0").map_err(ProxyError::io("binding the application's port"))?;
        listener.set_nonblocking(true).map_err(ProxyError::io("setting up the application's port"))?;
        let address = listener.local_addr().map_err(ProxyError::io("asking for the application's port"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ProxyError::io("starting the application's runtime"))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the bench's application panicked");
        }
    }
}

async fn serve(listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(error = %chain(&error), "the bench's application has no listener"),
    };
    let bodies = [(format!("/{SMALL}"), vec![b'x'; SMALL]), (format!("/{BULK}"), vec![b'x'; BULK])];
    let bodies: &'static [(String, Bytes)] =
        Box::leak(bodies.map(|(path, body)| (path, Bytes::from(body))).to_vec().into_boxed_slice());
    while let Ok((socket, _)) = listener.accept().await {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(error = %chain(&error), "no TCP_NODELAY");
        }
        let service = service_fn(move |request: Request<Incoming>| async move {
            let found = bodies.iter().find(|(path, _)| path == request.uri().path());
            let mut response = Response::new(Full::new(found.map(|(_, body)| body.clone()).unwrap_or_default()));
            if found.is_none() {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            Ok::<_, Infallible>(response)
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}
