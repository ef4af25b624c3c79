//! The hidden role `load`: kept TLS connections that ask for one path as fast as they are answered.

use crate::process::single_threaded;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
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

/// Asks until the time is over and prints what was done as one line of JSON. One thread: the load must not take all
/// cores from what it measures.
pub fn bench_load(args: LoadArgs) -> Result<()> {
    let result = single_threaded()?.block_on(load(args))?;
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}

async fn load(args: LoadArgs) -> Result<LoadResult> {
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
        requests += done.context("a task of the load was lost")?.context("a request failed")?;
    }
    Ok(LoadResult { requests, seconds: begin.elapsed().as_secs_f64() })
}

/// TLS that trusts whom this certificate has signed, and nobody else.
pub fn connector(certificate: &Path) -> Result<TlsConnector> {
    let certificate = CertificateDer::from_pem_file(certificate).context("reading the certificate to trust")?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).context("trusting the certificate")?;
    Ok(TlsConnector::from(Arc::new(client_config(roots, &["http/1.1"])?)))
}

pub fn client_config(roots: RootCertStore, protocols: &[&str]) -> Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("setting up the load generator's TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(config)
}

async fn connect(args: &LoadArgs, connector: &TlsConnector) -> Result<SendRequest<Empty<Bytes>>> {
    let socket = TcpStream::connect(args.address).await.context("connecting to the proxy")?;
    socket.set_nodelay(true).context("setting TCP_NODELAY")?;
    let name = ServerName::try_from(args.host.clone()).context("reading the name to ask for")?;
    let stream = connector.connect(name, socket).await.context("the TLS handshake with the proxy")?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("the proxy's HTTP")?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(mut sender: SendRequest<Empty<Bytes>>, args: Arc<LoadArgs>, end: Instant) -> Result<u64> {
    let mut requests = 0;
    while Instant::now() < end {
        sender.ready().await?;
        let request = Request::get(format!("/{}", args.answer_bytes))
            .header("host", &args.host)
            .header("authorization", &args.key)
            .body(Empty::new())?;
        let mut response = sender.send_request(request).await?;
        let mut bytes = 0;
        while let Some(frame) = response.body_mut().frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        let status = response.status();
        ensure!(status == StatusCode::OK && bytes == args.answer_bytes, "status {status}, {bytes} bytes");
        requests += 1;
    }
    Ok(requests)
}
