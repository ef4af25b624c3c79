//! The errors of making, restoring and using a certificate authority.

use leapbox_egress_policy::DomainName;

/// The reason an authority, or a certificate signed by it, could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("could not generate a key for a sandbox's CA")]
    Key {
        #[source]
        source: rcgen::Error,
    },
    #[error("could not make a sandbox's CA certificate")]
    Certificate {
        #[source]
        source: rcgen::Error,
    },
    /// The stored text is not an ECDSA P-256 key in PKCS #8.
    #[error("a sandbox's stored CA key can't be read")]
    StoredKey {
        #[source]
        source: rcgen::Error,
    },
    #[error("a sandbox's stored CA certificate is not PEM")]
    StoredPem {
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The stored certificate is PEM, but not a CA's certificate.
    #[error("a sandbox's stored CA certificate can't be read")]
    StoredCertificate {
        #[source]
        source: rcgen::Error,
    },
    #[error("a sandbox's stored CA certificate and key don't belong together")]
    Mismatch {
        #[source]
        source: rustls::Error,
    },
    #[error("a leaf key can't be used for TLS")]
    LeafKey {
        #[source]
        source: rustls::Error,
    },
    #[error("the operating system gave no random bytes for a certificate's serial number")]
    Random,
    #[error("could not sign a certificate for {name}")]
    Leaf {
        name: DomainName,
        #[source]
        source: rcgen::Error,
    },
}
