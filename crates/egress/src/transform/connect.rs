//! Opens connections to upstreams: TCP to a checked address, TLS verified against the host's trust anchors, HTTP.

use super::body::Upload;
use super::target::Target;
use super::tasks::Spawner;
use crate::context::EgressContext;
use crate::dial::{dial, resolve};
use crate::proxy::Proxy;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use leapbox_egress_policy::{Denial, DomainName};
use leapbox_errors::chain;
use rustls::client::Resumption;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{AlertDescription, CertificateError};
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

// For TLS once TCP is connected: a server that accepts and then says nothing must not hold the guest's connection. The
// error's text names the ten seconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that TLS takes from HTTP before it writes to the socket.
const TLS_BUFFER: usize = 64 * 1024;
// The upstream is not trusted more than the guest: these bound what its answers can make the proxy hold.
const MAX_HEADER_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;
/// Bytes of one HTTP/1.1 connection that wait to be taken, each way.
const BUFFER: usize = 128 * 1024;
/// Bytes that HTTP/2 may have under way to the proxy, per stream and per connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of one stream that wait for the upstream to take them.
const SEND_BUFFER: usize = 64 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const NOT_HTTP: &str = "it answered with something that is not HTTP";

/// The version of HTTP that both sides speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1. `agreed` tells whether ALPN has chosen it, or none was negotiated.
    Http1 { agreed: bool },
    /// HTTP/2, in which concurrent requests share one connection.
    Http2,
}

impl Protocol {
    /// The ALPN list with this protocol alone; empty if ALPN was not negotiated.
    pub(crate) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Protocol::Http1 { agreed: true } => vec![b"http/1.1".to_vec()],
            Protocol::Http1 { agreed: false } => Vec::new(),
            Protocol::Http2 => vec![b"h2".to_vec()],
        }
    }
}

/// Sends requests over one connection.
pub(crate) enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

/// Opens upstream connections for one guest connection.
pub(crate) struct Connector {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) context: Arc<EgressContext>,
    pub(crate) target: Arc<Target>,
    /// Runs the tasks that drive the connections.
    pub(crate) spawner: Spawner,
}

impl Connector {
    pub(crate) fn name(&self) -> &DomainName {
        &self.target.name
    }

    pub(crate) fn failed(&self, what: &'static str) -> Denial {
        Denial::Upstream { name: self.target.name.clone(), what: what.into() }
    }

    /// Opens another connection, offering only the protocol that an earlier one has agreed on.
    pub(crate) async fn open_again(&self, protocol: Protocol) -> Result<(Sender, Protocol), Denial> {
        // The name may lead elsewhere by now; a cached answer costs nothing.
        let addresses = resolve(&self.context, &self.target.name).await?;
        self.open(&addresses, protocol.alpn()).await
    }

    /// Opens a connection. `alpn` lists the protocols to offer, in this order.
    pub(crate) async fn open(&self, addresses: &[Ipv4Addr], alpn: Vec<Vec<u8>>) -> Result<(Sender, Protocol), Denial> {
        let stream = self.tls(addresses, alpn).await?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            chosen => Protocol::Http1 { agreed: chosen.is_some() },
        };
        let sender = match protocol {
            Protocol::Http1 { .. } => {
                let (sender, connection) =
                    http1_builder().handshake(TokioIo::new(stream)).await.map_err(|error| self.not_http(&error))?;
                self.spawner.execute(drive(connection.with_upgrades()));
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let builder = http2_builder(self.spawner.clone());
                let (sender, connection) =
                    builder.handshake(TokioIo::new(stream)).await.map_err(|error| self.not_http(&error))?;
                self.spawner.execute(drive(connection));
                Sender::Http2(sender)
            }
        };
        Ok((sender, protocol))
    }

    fn not_http(&self, error: &hyper::Error) -> Denial {
        tracing::debug!(upstream = %self.target.name, error = %chain(error), "an upstream does not speak HTTP");
        self.failed(NOT_HTTP)
    }

    async fn tls(&self, addresses: &[Ipv4Addr], alpn: Vec<Vec<u8>>) -> Result<TlsStream<TcpStream>, Denial> {
        let name = ServerName::try_from(self.target.name.as_str().to_owned())
            .map_err(|_: InvalidDnsNameError| self.failed("its name can't be in a certificate"))?;
        let mut config = rustls::ClientConfig::clone(&self.proxy.upstream);
        config.alpn_protocols = alpn;
        // Without resumption the certificate is verified on every connection, and the server cannot link sandboxes of
        // one host by a session ticket.
        config.resumption = Resumption::disabled();
        let (port, prefer) = (self.target.destination.port(), *self.target.destination.ip());
        let socket = dial(&self.context, &self.target.name, addresses, port, prefer).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let handshake = connector.connect_with(name, socket, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                tracing::debug!(upstream = %self.target.name, error = %chain(&error), "TLS with an upstream failed");
                Err(self.failed(tls_failure(&error)))
            }
            Err(_) => Err(self.failed("it did not complete the TLS handshake in 10 s")),
        }
    }
}

async fn drive(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(error = %chain(&error), "a connection to an upstream broke off");
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).max_header_size(MAX_HEADER_BYTES).max_headers(MAX_HEADERS).max_buf_size(BUFFER);
    builder
}

fn http2_builder(spawner: Spawner) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(spawner);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    builder
}

/// Returns the text that the guest and the operator read about a failed handshake, as the end of `Denial::Upstream`.
fn tls_failure(error: &io::Error) -> &'static str {
    use CertificateError as Bad;
    let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
        return "it closed the connection during the TLS handshake";
    };
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired",
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => "its certificate is not valid yet",
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "its certificate is for another name",
            Bad::UnknownIssuer => "its certificate has an issuer that this host does not trust",
            Bad::Revoked => "its certificate was revoked",
            _ => "its certificate can't be verified",
        },
        rustls::Error::NoApplicationProtocol
        | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it speaks none of the versions of HTTP that were offered to it"
        }
        rustls::Error::AlertReceived(_) => "it refused the TLS handshake",
        _ => "it does not speak TLS as it should",
    }
}
