//! Terminates the guest's TLS with a certificate for exactly the name that it asked for, signed by its sandbox's
//! authority.

use super::prefixed::Prefixed;
use crate::authority::Authority;
use leapbox_egress_policy::stream::client_hello::ClientHello;
use leapbox_egress_policy::{Denial, DomainName};
use leapbox_errors::chain;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

// The connection is decided and no longer counts as silent, so the handshake needs a limit of its own.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that TLS takes from HTTP before it writes to the socket.
const TLS_BUFFER: usize = 64 * 1024;
/// The versions of HTTP that can be terminated, by their ALPN names.
const KNOWN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Returns the versions of HTTP that the guest offers, in its order. A guest that offers other protocols only is
/// refused.
pub(crate) fn offered(hello: &ClientHello) -> Result<Vec<Vec<u8>>, Denial> {
    let known: Vec<Vec<u8>> = hello.alpn.iter().filter(|name| KNOWN.contains(&name.as_slice())).cloned().collect();
    if known.is_empty() && !hello.alpn.is_empty() {
        return Err(Denial::Malformed { what: "TLS for another protocol than HTTP, to a domain with a transform" });
    }
    Ok(known)
}

/// Completes the handshake. `alpn` lists what may be agreed on, in this order; if it is empty, ALPN is not negotiated.
pub(crate) async fn terminate(
    provider: &Arc<CryptoProvider>,
    authority: &Authority,
    name: &DomainName,
    alpn: Vec<Vec<u8>>,
    guest: Prefixed,
) -> Result<TlsStream<Prefixed>, Denial> {
    let config = config(provider, authority, name, alpn)
        .ok_or_else(|| Denial::Upstream { name: name.clone(), what: "no certificate could be made for it".into() })?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let handshake = acceptor.accept_with(guest, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            tracing::debug!(%name, error = %chain(&error), "the TLS handshake with a guest failed");
            Err(Denial::Malformed { what: failure(&error) })
        }
        Err(_) => Err(Denial::Slow { what: "the TLS handshake" }),
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    authority: &Authority,
    name: &DomainName,
    alpn: Vec<Vec<u8>>,
) -> Option<ServerConfig> {
    let leaf = authority
        .leaf(name)
        .inspect_err(|error| tracing::error!(%name, error = %chain(error), "no certificate for a transform"))
        .ok()?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .inspect_err(|error| tracing::error!(error = %chain(error), "TLS towards a guest could not be set up"))
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
    config.alpn_protocols = alpn;
    // Without resumption every connection shows its SNI and is decided on its own.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(config)
}

/// Returns the text that the operator reads about a handshake that the guest has not completed.
fn failure(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(_)) => {
            "the TLS client rejected the sandbox's CA: it pins certificates, or its own trust store lacks \
             /run/leapbox/egress-ca.pem"
        }
        Some(_) => "the TLS handshake could not be completed",
        None => "the TLS client closed the connection before the handshake was complete",
    }
}
