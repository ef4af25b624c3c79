//! The gateway's certificate: read from PEM files, and read again when they change.
//!
//! One certificate serves every name, because it is a wildcard's. SNI is not looked at: the host name that counts is
//! the request's. If a file is broken or half-written, or becomes another domain's, the certificate before it stays in
//! use. `leapbox serve` makes a [`Tls`] at its start and gives it to the gateway, which keeps it current.

use leapbox_errors::chain;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

/// How often the files' times are looked at.
// A look is two `stat` calls, and a renewed certificate is in use within this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// TLS could not be set up from the given files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file is not PEM, or has no section of the expected kind.
    #[error("{} has no usable {what} in PEM form", path.display())]
    Pem {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: pem::Error,
    },
    /// The certificate or the key is not supported, or they do not belong together.
    #[error("the certificate in {} cannot be used with its key", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    /// The certificate is not valid for the names of sandboxes.
    #[error("the certificate in {} is not one of *.{domain}, the configured domain", path.display())]
    OtherDomain { path: PathBuf, domain: String },
    /// rustls refused its settings, or the operating system gave no random bytes for the tickets' key.
    #[error("could not set up TLS")]
    Setup {
        #[source]
        source: rustls::Error,
    },
}

/// TLS for the gateway: TLS 1.2 and 1.3, `h2` and `http/1.1`, session tickets.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    /// Absent if the configuration was given ready-made.
    files: Option<Arc<Files>>,
}

impl Tls {
    /// Reads PEM files: the certificate with its chain, and its private key (PKCS #8, SEC1 or PKCS #1).
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::new(Files::load(certificate, key, None)?)
    }

    /// As [`Self::from_files`], for a certificate of `*.<domain>`. Any other is refused, also when the files change.
    pub fn from_files_of(domain: &str, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::new(Files::load(certificate, key, Some(domain.to_owned()))?)
    }

    fn new(files: Files) -> Result<Self, TlsError> {
        let files = Arc::new(files);
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Setup { source })?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&files) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Tickets keep sessions on the client's side: thousands of clients can resume, and nothing is stored for them
        // here.
        config.ticketer = ring::Ticketer::new().map_err(|source| TlsError::Setup { source })?;
        Ok(Self { config: Arc::new(config), files: Some(files) })
    }

    /// Takes a configuration made elsewhere, which must offer `h2` and `http/1.1` by ALPN itself. It is never reloaded.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self { config, files: None }
    }

    /// Whether the certificate is valid for `*.<domain>`. It is not known, and true, of a configuration made elsewhere.
    pub fn is_of(&self, domain: &str) -> bool {
        self.files.as_ref().is_none_or(|files| is_of(&files.current.read().1, domain))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Reads the files again whenever they change, for ever; returns at once if there are none.
    pub(crate) async fn keep_current(self) {
        let Some(files) = self.files else { return };
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match files.reload() {
                Ok(false) => {}
                Ok(true) => tracing::info!(path = %files.certificate.display(), "loaded the new certificate"),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "cannot load the changed certificate; keeping the old one");
                }
            }
        }
    }
}

/// The times of the last change of certificate and key; `None` for a file that cannot be looked at.
type Stamp = [Option<SystemTime>; 2];

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// The domain that the certificate must be of, if that is demanded.
    domain: Option<String>,
    current: RwLock<(Stamp, Arc<CertifiedKey>)>,
}

impl Files {
    fn load(certificate: &Path, key: &Path, domain: Option<String>) -> Result<Self, TlsError> {
        let current = RwLock::new((stamp(certificate, key), read(certificate, key, domain.as_deref())?));
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), domain, current })
    }

    /// Reads the files if they have changed, and returns whether they had.
    fn reload(&self) -> Result<bool, TlsError> {
        // Taken before the files are read: a change in between has another time, and is found by the next look.
        let now = stamp(&self.certificate, &self.key);
        if self.current.read().0 == now {
            return Ok(false);
        }
        let fresh = read(&self.certificate, &self.key, self.domain.as_deref());
        let mut current = self.current.write();
        // Also after a failure, so that one broken file is reported once and not every few seconds.
        current.0 = now;
        current.1 = fresh?;
        Ok(true)
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().1))
    }
}

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    [certificate, key].map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

/// Whether a certificate is valid for the name of a sandbox, so that it must be the wildcard's or have that very name.
fn is_of(certified: &CertifiedKey, domain: &str) -> bool {
    let Ok(name) = ServerName::try_from(format!("sbx-any.{domain}")) else { return false };
    let certificate = certified.end_entity_cert().and_then(ParsedCertificate::try_from);
    certificate.and_then(|certificate| verify_server_name(&certificate, &name)).is_ok()
}

fn read(certificate: &Path, key: &Path, domain: Option<&str>) -> Result<Arc<CertifiedKey>, TlsError> {
    let bytes = |path: &Path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
    let bad = |path: &Path, what| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, what, source }
    };
    let chain = CertificateDer::pem_slice_iter(&bytes(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(bad(certificate, "certificate"))?;
    let private = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(bad(key, "private key"))?;
    let certified = CertifiedKey::from_der(chain, private, &ring::default_provider())
        .map_err(|source| TlsError::Unusable { path: certificate.to_owned(), source })?;
    match domain {
        Some(domain) if !is_of(&certified, domain) => {
            Err(TlsError::OtherDomain { path: certificate.to_owned(), domain: domain.to_owned() })
        }
        _ => Ok(Arc::new(certified)),
    }
}

#[cfg(test)]
mod tests;
