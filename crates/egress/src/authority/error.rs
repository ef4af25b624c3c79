//! Why there is no authority, or no certificate of it.

use leapbox_egress_policy::DomainName;

/// Why there is no authority, or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// No key pair could be made.
    #[error("could not make a key")]
    Key {
        #[source]
        source: rcgen::Error,
    },
    /// The authority's own certificate could not be made.
    #[error("could not make a sandbox's CA certificate")]
    Certificate {
        #[source]
        source: rcgen::Error,
    },
    /// What was stored is not an ECDSA P-256 key in PKCS #8.
    #[error("a stored CA key can't be read")]
    StoredKey {
        #[source]
        source: rcgen::Error,
    },
    /// What was stored is not a certificate in PEM.
    #[error("a stored CA certificate is not PEM")]
    StoredPem {
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// What was stored is not a CA's certificate.
    #[error("a stored CA certificate can't be read")]
    StoredCertificate {
        #[source]
        source: rcgen::Error,
    },
    /// Key and certificate are of different authorities.
    #[error("a stored CA certificate and key don't belong together")]
    Mismatch {
        #[source]
        source: rustls::Error,
    },
    /// The leaves' key does not work for TLS.
    #[error("a leaf key can't be used for TLS")]
    LeafKey {
        #[source]
        source: rustls::Error,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes for a certificate's serial number")]
    Random,
    /// A leaf could not be made.
    #[error("could not make a certificate for {name}")]
    Leaf {
        name: DomainName,
        #[source]
        source: rcgen::Error,
    },
}
