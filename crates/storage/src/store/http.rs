//! The HTTP client of the object store: hyper and rustls, which this program contains anyway.
//!
//! The trust anchors are the host's (`SSL_CERT_FILE` names others). Proxy settings of the environment are not used.

use async_trait::async_trait;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::http::uri::Scheme;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time from a request to the head of its response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
// An upload sends three pieces of 8 MiB at a time, for which a line of 3.4 Mbit/s needs 60 seconds.
const RESPONSE_TO_BODY_TIMEOUT: Duration = Duration::from_secs(60);
// Not for the whole body: a part may have many GiB. A wake waits for it and must notice when nothing comes any more.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(20);
// Shorter than servers keep idle connections, so that a request is seldom sent into one that is just being closed.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Makes an HTTP client for each set of options that `object_store` has.
#[derive(Debug)]
pub(super) struct Hyper;

impl HttpConnector for Hyper {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|allowed| allowed == "true");
        let generic = |source: io::Error| object_store::Error::Generic { store: "S3", source: Box::new(source) };
        let mut tcp = TcpConnector::new();
        // The TLS connector around it passes https:// URLs through, which hyper's TCP connector refuses by default.
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let tls = tls(plain).map_err(generic)?;
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(https.wrap_connector(tcp));
        Ok(HttpClient::new(Service { client, plain }))
    }
}

/// TLS with the host's trust anchors.
fn tls(plain: bool) -> io::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    // Without anchors every request would fail, which is better said at the start. Where plain HTTP is allowed, a test
    // host needs none.
    if roots.is_empty() && !plain {
        let why = found.errors.into_iter().next().map(|e| e.to_string()).unwrap_or_default();
        let text = format!("no trust anchors on this host (install ca-certificates) {why}");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
}

#[derive(Debug)]
struct Service {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
    /// Whether http:// URLs are allowed.
    plain: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // `object_store` leaves its option AllowHttp to the connector. Without this check an endpoint without TLS would
        // be used unnoticed.
        if !self.plain && request.uri().scheme() != Some(&Scheme::HTTPS) {
            let text = format!("{} is not https:// (AWS_ALLOW_HTTP=true allows it)", request.uri());
            return Err(HttpError::new(HttpErrorKind::Unknown, io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let limit = if request.body().content_length() == 0 { RESPONSE_TIMEOUT } else { RESPONSE_TO_BODY_TIMEOUT };
        let answer = timeout(limit, self.client.request(request)).await;
        let (head, body) = answer.map_err(|_: Elapsed| too_slow())?.map_err(failed)?.into_parts();
        let frames = StreamBody::new(stream::unfold(Some(body), next_frame).fuse());
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(frames)))
    }
}

/// The next piece of a response's body; after an error there is none.
async fn next_frame(body: Option<Incoming>) -> Option<(Result<Frame<bytes::Bytes>, HttpError>, Option<Incoming>)> {
    let mut body = body?;
    match timeout(BODY_IDLE_TIMEOUT, body.frame()).await {
        Ok(None) => None,
        Ok(Some(Ok(frame))) => Some((Ok(frame), Some(body))),
        Ok(Some(Err(e))) => Some((Err(HttpError::new(HttpErrorKind::Interrupted, e)), None)),
        Err(_) => Some((Err(too_slow()), None)),
    }
}

fn too_slow() -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, io::Error::from(io::ErrorKind::TimedOut))
}

fn failed(error: ClientError) -> HttpError {
    // After the connection was made, the request may have reached the server. `object_store` repeats an interrupted
    // request only if that is safe, and one that was never sent in any case.
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
    HttpError::new(kind, error)
}
