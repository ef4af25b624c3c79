//! A sandbox's certificate authority, which signs the certificates with which transforms terminate the sandbox's TLS.
//!
//! ```text
//!   generate ──► certificate_pem ──► the guest's trust store, and nobody else's
//!        │   └─► key_pem ──► sealed storage; never the guest, a log or an answer
//!        └─signs──► leaf(name): this one name, 30 days, cached
//! ```
//!
//! The authority carries no name constraints, because a restore can give the sandbox other domains but not another
//! authority. It is bounded by who trusts it: one sandbox. `transform` uses it, and `lifecycle` makes and restores it.

mod error;

pub use error::AuthorityError;

use leapbox_egress_policy::DomainName;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::crypto::{CryptoProvider, GetRandomFailed, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

const COMMON_NAME: &str = "Leapbox sandbox CA";
// An authority is never renewed, and a paused sandbox keeps its own for as long as it is stored.
const LIFETIME: Duration = Duration::days(3650);
const LEAF_LIFETIME: Duration = Duration::days(30);
// A cached leaf is used only while this much of its life is left, for long connections and for guests' wrong clocks.
const LEAF_RENEWAL: Duration = Duration::days(10);
// Certificates begin this long in the past, so that a guest whose clock is behind accepts them.
const CLOCK_SKEW: Duration = Duration::days(1);
// Leaves cached per sandbox. Under a wildcard the guest can make up any number of names; beyond this the oldest leaf is
// dropped, and costs one signature when it is needed again.
const CACHED_LEAVES: usize = 256;
/// Most characters of a common name (RFC 5280, ub-common-name).
const LONGEST_COMMON_NAME: usize = 64;
// RFC 5280 §4.1.2.2 allows 20 bytes; a random number of 16 does not collide.
const SERIAL_BYTES: usize = 16;

/// One sandbox's authority. Its `Debug` shows nothing of the key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    // One key for all leaves: only the certificate of a new name costs a signature. It is never stored, so a server
    // that starts again makes new leaves.
    leaf_key: KeyPair,
    /// `leaf_key` in the form that rustls signs with.
    leaf_signer: Arc<dyn SigningKey>,
    provider: CryptoProvider,
    leaves: Mutex<HashMap<DomainName, Leaf>>,
}

struct Leaf {
    key: Arc<CertifiedKey>,
    made: OffsetDateTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority, valid for ten years.
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(COMMON_NAME);
        // Path length 0: it signs leaves and no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + LIFETIME;
        params.serial_number = Some(serial_number(&ring::default_provider())?);
        let certificate = params.self_signed(&key).map_err(|source| AuthorityError::Certificate { source })?;
        Self::new(certificate.pem(), certificate.der(), key)
    }

    /// Restores an authority from what [`Authority::certificate_pem`] and [`Authority::key_pem`] returned.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|source| AuthorityError::StoredKey { source })?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|source| AuthorityError::StoredPem { source })?;
        Self::new(certificate.to_owned(), &der, key)
    }

    fn new(certificate_pem: String, certificate: &CertificateDer<'_>, key: KeyPair) -> Result<Self, AuthorityError> {
        let provider = ring::default_provider();
        let signer = signing_key(&provider, &key).map_err(|source| AuthorityError::Mismatch { source })?;
        // A key of another authority would sign leaves that no guest accepts, which would show only in every guest's
        // TLS.
        CertifiedKey::new(vec![certificate.clone().into_owned()], signer)
            .keys_match()
            .map_err(|source| AuthorityError::Mismatch { source })?;
        let issuer = Issuer::from_ca_cert_der(certificate, key)
            .map_err(|source| AuthorityError::StoredCertificate { source })?;
        let leaf_key = new_key()?;
        let leaf_signer = signing_key(&provider, &leaf_key).map_err(|source| AuthorityError::LeafKey { source })?;
        let leaves = Mutex::default();
        Ok(Self { issuer, certificate_pem, leaf_key, leaf_signer, provider, leaves })
    }

    /// The certificate in PEM, for the guest's trust store.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key (PKCS #8 in PEM). It is **secret** and may go to sealed storage alone.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Returns the certificate and key for one name, from the cache or newly made.
    pub(crate) fn leaf(&self, name: &DomainName) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let now = OffsetDateTime::now_utc();
        if let Some(key) = self.cached(name, now) {
            return Ok(key);
        }
        let certificate = self.sign(name, now)?;
        let key = Arc::new(CertifiedKey::new(vec![certificate], Arc::clone(&self.leaf_signer)));
        self.cache(name, Leaf { key: Arc::clone(&key), made: now });
        Ok(key)
    }

    fn cached(&self, name: &DomainName, now: OffsetDateTime) -> Option<Arc<CertifiedKey>> {
        let leaves = self.leaves.lock();
        let leaf = leaves.get(name)?;
        // After the host's clock was set back, cached leaves lie in the future: those are made anew as well.
        let age = now - leaf.made;
        let is_good = (Duration::ZERO..LEAF_LIFETIME - LEAF_RENEWAL).contains(&age);
        is_good.then(|| Arc::clone(&leaf.key))
    }

    fn cache(&self, name: &DomainName, leaf: Leaf) {
        let mut leaves = self.leaves.lock();
        if leaves.len() >= CACHED_LEAVES && !leaves.contains_key(name) {
            let oldest = leaves.iter().min_by_key(|(_, leaf)| leaf.made).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                leaves.remove(&oldest);
            }
        }
        leaves.insert(name.clone(), leaf);
    }

    fn sign(&self, name: &DomainName, now: OffsetDateTime) -> Result<CertificateDer<'static>, AuthorityError> {
        let failed = |source| AuthorityError::Leaf { name: name.clone(), source };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into().map_err(failed)?)];
        // Clients look at the alternative name; a common name that is too long would be an invalid certificate.
        params.distinguished_name = match name.as_str() {
            short if short.len() <= LONGEST_COMMON_NAME => common_name(short),
            _ => DistinguishedName::new(),
        };
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Strict clients (Python 3.13) require it, and it tells this authority from other sandboxes', whose names are
        // the same.
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + LEAF_LIFETIME;
        // rcgen's default is derived from the key, which all leaves share, and NSS refuses two certificates of one
        // issuer with the same serial number.
        params.serial_number = Some(serial_number(&self.provider)?);
        let certificate = params.signed_by(&self.leaf_key, &self.issuer).map_err(failed)?;
        Ok(certificate.into())
    }
}

fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| AuthorityError::Key { source })
}

fn signing_key(provider: &CryptoProvider, key: &KeyPair) -> Result<Arc<dyn SigningKey>, rustls::Error> {
    provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
}

fn serial_number(provider: &CryptoProvider) -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; SERIAL_BYTES];
    provider.secure_random.fill(&mut bytes).map_err(|_: GetRandomFailed| AuthorityError::Random)?;
    // Positive and not zero (RFC 5280 §4.1.2.2), and always of the same length in DER.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

#[cfg(test)]
mod tests;
