//! The load generator of one round, in one thread: the role `egress load`.

use super::OPAQUE;
use super::internet::ANSWER;
use crate::process::single_threaded;
use crate::proxy::load::{client_config, connector};
use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, RootCertStore};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;

/// What is read at a time, in bytes.
const ROOM: usize = 256 * 1024;
/// For one connection: longer than this is a failure, and not a slow round.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of the load generator.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What each connection does.
    #[arg(long, value_enum)]
    kind: Kind,
    /// The server, or the proxy.
    #[arg(long)]
    address: SocketAddr,
    /// Connections at a time.
    #[arg(long)]
    connections: usize,
    /// How long, in ms.
    #[arg(long)]
    ms: u64,
    /// With `--kind tls`: the host name to ask for.
    #[arg(long, default_value = OPAQUE)]
    host: String,
    /// With `--kind tls`: the certificate to trust, in PEM.
    #[arg(long, required_if_eq("kind", "tls"))]
    certificate: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// Again and again: connect, a ClientHello, one answer, hang up.
    Answers,
    /// A ClientHello, then read whatever comes.
    Stream,
    /// Again and again: connect, TLS, one request, hang up.
    Tls,
}

/// What one round did; its line on standard output.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) connections: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// Runs until the time is over and prints what was done.
pub(super) fn run(args: &Args) -> Result<()> {
    let done = single_threaded()?.block_on(load(args))?;
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

async fn load(args: &Args) -> Result<Done> {
    let hello = Arc::<[u8]>::from(client_hello(OPAQUE)?);
    let tls = args.certificate.as_deref().map(connector).transpose()?;
    let begin = Instant::now();
    let end = begin + Duration::from_millis(args.ms);
    let mut tasks = JoinSet::new();
    for _ in 0..args.connections {
        let (address, host, hello, tls) = (args.address, args.host.clone(), hello.clone(), tls.clone());
        match (args.kind, tls) {
            (Kind::Answers, _) => tasks.spawn(async move { answers(address, &hello, end).await }),
            (Kind::Stream, _) => tasks.spawn(async move { stream(address, &hello, end).await }),
            (Kind::Tls, Some(tls)) => tasks.spawn(async move { requests(address, &tls, &host, end).await }),
            (Kind::Tls, None) => bail!("there is nobody to trust"),
        };
    }
    let (mut connections, mut bytes) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let done = done.context("a task of the load was lost")?;
        let (more_connections, more_bytes) = done.context("a measured connection failed")?;
        connections += more_connections;
        bytes += more_bytes;
    }
    Ok(Done { connections, bytes, seconds: begin.elapsed().as_secs_f64() })
}

/// A ClientHello as rustls makes it.
fn client_hello(name: &str) -> Result<Vec<u8>> {
    let config = client_config(RootCertStore::empty(), &["h2", "http/1.1"])?;
    let mut session = ClientConnection::new(Arc::new(config), server_name(name)?).context("making a ClientHello")?;
    let mut hello = Vec::new();
    session.write_tls(&mut hello).context("writing a ClientHello")?;
    Ok(hello)
}

fn server_name(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).with_context(|| format!("{name} is no name of a server"))
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A broken connection is no slow one: the round fails.
async fn in_time<T>(step: &'static str, work: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.with_context(|| format!("{step} took longer than {} s", PATIENCE.as_secs()))?.context(step)
}

async fn answers(address: SocketAddr, hello: &[u8], end: Instant) -> Result<(u64, u64)> {
    let (mut connections, mut answer) = (0, Vec::with_capacity(ANSWER));
    while Instant::now() < end {
        answer.clear();
        in_time("a connection that asks for one answer", async {
            let mut socket = connect(address).await?;
            socket.write_all(hello).await?;
            socket.read_to_end(&mut answer).await
        })
        .await?;
        ensure!(answer.len() == ANSWER, "{} bytes of an answer", answer.len());
        connections += 1;
    }
    Ok((connections, connections * ANSWER as u64))
}

async fn stream(address: SocketAddr, hello: &[u8], end: Instant) -> Result<(u64, u64)> {
    let mut socket = in_time("a connection that asks for a stream", async {
        let mut socket = connect(address).await?;
        socket.write_all(hello).await?;
        Ok(socket)
    })
    .await?;
    let (mut bytes, mut room) = (0, vec![0; ROOM]);
    while let Ok(read) = timeout_at(end.into(), socket.read(&mut room)).await {
        match read.context("reading a stream")? {
            0 => bail!("a stream without end has ended"),
            n => bytes += n as u64,
        }
    }
    Ok((1, bytes))
}

async fn requests(address: SocketAddr, tls: &TlsConnector, host: &str, end: Instant) -> Result<(u64, u64)> {
    let request = format!("GET /{ANSWER} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let name = server_name(host)?;
    let (mut connections, mut bytes, mut answer) = (0, 0, Vec::new());
    while Instant::now() < end {
        answer.clear();
        in_time("a connection that asks over TLS", async {
            let mut stream = tls.connect(name.clone(), connect(address).await?).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut answer).await
        })
        .await?;
        let is_right = answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(&[b'x'; ANSWER]);
        ensure!(is_right, "answered {:?}", String::from_utf8_lossy(&answer));
        connections += 1;
        bytes += answer.len() as u64;
    }
    Ok((connections, bytes))
}
