//! The guest's side of TLS: a certificate for exactly the name it asked for, signed by its sandbox's authority.

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

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes TLS takes from HTTP before they must go to the socket.
const TLS_BUFFER: usize = 64 * 1024;
/// Versions of HTTP that can be looked into, by their ALPN names.
const KNOWN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What the guest offers and we speak, in its order. Refused: other protocols only.
pub(crate) fn offered(hello: &ClientHello) -> Result<Vec<Vec<u8>>, Denial> {
    let known: Vec<Vec<u8>> = hello.alpn.iter().filter(|name| KNOWN.contains(&name.as_slice())).cloned().collect();
    if known.is_empty() && !hello.alpn.is_empty() {
        return Err(Denial::Malformed { what: "TLS for another protocol than HTTP, to a domain with a transform" });
    }
    Ok(known)
}

/// Completes the handshake. `alpn` is what may be agreed on, in our order; empty: nothing is.
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
    match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            tracing::debug!(%name, error = %chain(&error), "no TLS with a guest");
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
        .inspect_err(|error| tracing::error!(%name, error = %chain(error), "no certificate"))
        .ok()?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .inspect_err(|error| tracing::error!(error = %chain(error), "no TLS settings"))
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
    config.alpn_protocols = alpn;
    // No resumption: every connection is decided on its own, and nothing of it is remembered.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(config)
}

/// What the operator reads about a handshake that the guest did not complete.
fn failure(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(_)) => {
            "a TLS client that does not accept the sandbox's CA: does it use its own trust store, or pins?"
        }
        Some(_) => "a TLS handshake that could not be completed",
        None => "a TLS client that hung up before the handshake was complete",
    }
}
