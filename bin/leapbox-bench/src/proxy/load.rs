//! The hidden role `load`: kept TLS connections that ask for one path as fast as they are answered.

use super::ProxyError;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Arguments of the role `load`.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// The proxy.
    #[arg(long)]
    address: SocketAddr,
    /// The host name to ask for.
    #[arg(long)]
    host: String,
    /// The platform's key.
    #[arg(long)]
    key: String,
    /// The certificate to trust, in PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// Bytes of the answer to ask for.
    #[arg(long)]
    answer_bytes: usize,
    /// Connections.
    #[arg(long)]
    connections: usize,
    /// How long, in ms.
    #[arg(long)]
    ms: u64,
}

/// What one run did; its line on standard output.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LoadResult {
    pub requests: u64,
    pub seconds: f64,
}

fn failed(error: impl Display) -> ProxyError {
    ProxyError::Request { why: error.to_string() }
}

/// Asks until the time is over and prints what was done as one line of JSON.
pub async fn bench_load(args: LoadArgs) -> Result<(), ProxyError> {
    // One thread whatever the caller's runtime is: the load must not take all cores from what it measures.
    let run = tokio::task::spawn_blocking(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ProxyError::io("starting the load's runtime"))?
            .block_on(load(args))
    });
    let result = run.await.map_err(failed)??;
    println!("{}", serde_json::to_string(&result).map_err(failed)?);
    Ok(())
}

async fn load(args: LoadArgs) -> Result<LoadResult, ProxyError> {
    let connector = connector(&args.certificate)?;
    let args = Arc::new(args);
    let mut senders = Vec::new();
    for _ in 0..args.connections {
        senders.push(connect(&args, &connector).await?);
    }
    let begin = Instant::now();
    let end = begin + Duration::from_millis(args.ms);
    let mut tasks = JoinSet::new();
    for sender in senders {
        tasks.spawn(ask(sender, Arc::clone(&args), end));
    }
    let mut requests = 0;
    while let Some(done) = tasks.join_next().await {
        requests += done.map_err(failed)??;
    }
    Ok(LoadResult { requests, seconds: begin.elapsed().as_secs_f64() })
}

/// TLS that trusts this certificate alone, and whom it has signed.
pub fn connector(certificate: &Path) -> Result<TlsConnector, ProxyError> {
    let certificate = CertificateDer::from_pem_file(certificate).map_err(failed)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(ProxyError::ClientTls)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ProxyError::ClientTls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn connect(args: &LoadArgs, connector: &TlsConnector) -> Result<SendRequest<Empty<Bytes>>, ProxyError> {
    let socket = TcpStream::connect(args.address).await.map_err(ProxyError::io("connecting to the proxy"))?;
    socket.set_nodelay(true).map_err(ProxyError::io("setting TCP_NODELAY"))?;
    let name = ServerName::try_from(args.host.clone()).map_err(failed)?;
    let stream = connector.connect(name, socket).await.map_err(ProxyError::io("the TLS handshake with the proxy"))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(mut sender: SendRequest<Empty<Bytes>>, args: Arc<LoadArgs>, end: Instant) -> Result<u64, ProxyError> {
    let mut requests = 0;
    while Instant::now() < end {
        sender.ready().await.map_err(failed)?;
        let request = Request::get(format!("/{}", args.answer_bytes))
            .header("host", &args.host)
            .header("authorization", &args.key)
            .body(Empty::new())
            .map_err(failed)?;
        let mut response = sender.send_request(request).await.map_err(failed)?;
        let mut bytes = 0;
        while let Some(frame) = response.body_mut().frame().await {
            bytes += frame.map_err(failed)?.data_ref().map_or(0, Bytes::len);
        }
        if response.status() != StatusCode::OK || bytes != args.answer_bytes {
            return Err(failed(format!("status {}, {bytes} bytes", response.status())));
        }
        requests += 1;
    }
    Ok(requests)
}
