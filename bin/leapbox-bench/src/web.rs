//! The web server behind the proxies of both comparisons.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes of a small answer.
pub const SMALL: usize = 128;
/// Bytes of a large one, which is also the longest.
pub const BULK: usize = 1 << 20;
/// Every answer is the beginning of this.
pub static BYTES: [u8; BULK] = [b'x'; BULK];

/// Serves one connection, HTTP/1.1: `/<n>` answers n bytes.
pub async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| async move {
        let length = request.uri().path().strip_prefix('/').and_then(|length| length.parse::<usize>().ok());
        let body = length.and_then(|length| BYTES.get(..length));
        let mut response = Response::new(Full::new(Bytes::from_static(body.unwrap_or_default())));
        if body.is_none() {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        Ok::<_, Infallible>(response)
    });
    http1::Builder::new().serve_connection(TokioIo::new(socket), service).await
}
