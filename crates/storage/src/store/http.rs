//! The HTTP client under the object store: hyper and rustls, which are in this program anyway.
//!
//! The trust anchors are the host's (`SSL_CERT_FILE` names others). Proxies of the environment are not used.

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

const CONNECT: Duration = Duration::from_secs(5);
/// From a request to the head of its answer.
const ANSWER: Duration = Duration::from_secs(20);
/// The same where the request has a body, which may be 8 MiB on a slow line.
const ANSWER_TO_BODY: Duration = Duration::from_secs(60);
/// Between two pieces of an answer's body.
const SILENCE: Duration = Duration::from_secs(20);
/// Servers close what is idle for longer.
const IDLE: Duration = Duration::from_secs(15);

/// Makes the clients.
#[derive(Debug)]
pub(super) struct Hyper;

impl HttpConnector for Hyper {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|allowed| allowed == "true");
        let generic = |source: io::Error| object_store::Error::Generic { store: "S3", source: Box::new(source) };
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let tls = tls(plain).map_err(generic)?;
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(https.wrap_connector(tcp));
        Ok(HttpClient::new(Service { client, plain }))
    }
}

/// The host's trust anchors. Where plain HTTP is allowed there may be none: a test host needs no certificates.
fn tls(plain: bool) -> io::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() && !plain {
        let why = found.errors.into_iter().next().map(|e| e.to_string()).unwrap_or_default();
        let text = format!("no trust anchors on this host (is ca-certificates installed?) {why}");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
}

#[derive(Debug)]
struct Service {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
    /// Whether http:// is allowed.
    plain: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if !self.plain && request.uri().scheme() != Some(&Scheme::HTTPS) {
            let text = format!("{} is not https:// (AWS_ALLOW_HTTP=true allows it)", request.uri());
            return Err(HttpError::new(HttpErrorKind::Unknown, io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let patience = if request.body().content_length() == 0 { ANSWER } else { ANSWER_TO_BODY };
        let answer = timeout(patience, self.client.request(request)).await;
        let (head, body) = answer.map_err(|_: Elapsed| too_slow())?.map_err(failed)?.into_parts();
        let frames = StreamBody::new(stream::unfold(Some(body), next_frame).fuse());
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(frames)))
    }
}

/// The next piece of a body; after an error there is none.
async fn next_frame(body: Option<Incoming>) -> Option<(Result<Frame<bytes::Bytes>, HttpError>, Option<Incoming>)> {
    let mut body = body?;
    match timeout(SILENCE, body.frame()).await {
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
    // What failed later may have reached the server: only what can be repeated is tried again.
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
    HttpError::new(kind, error)
}
