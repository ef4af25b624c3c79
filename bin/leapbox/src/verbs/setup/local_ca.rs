//! The local certificate authority and the server certificate of `*.<domain>`.
//!
//! ```text
//! ca.key ─signs─► ca.pem (for this domain alone: name constraints)
//!            └──► server.pem, server.key (at most 397 days, renewed 30 days before its end)
//! the system's roots + ca.pem ─► bundle.pem (what `leapbox env` points clients at)
//! record.json is written last: without it, everything is made anew
//! ```

use crate::state::{Access, read_if_there, write_file};
use leapbox_errors::FileError;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

const CA_KEY: &str = "ca.key";
const CA_CERT: &str = "ca.pem";
/// The server's private key.
pub const SERVER_KEY: &str = "server.key";
/// The server's certificate.
pub const SERVER_CERT: &str = "server.pem";
const BUNDLE: &str = "bundle.pem";
const RECORD: &str = "record.json";

const CA_LIFETIME: Duration = Duration::days(3650);
/// Apple's and the CA/Browser Forum's bound for server certificates is 398 days.
const SERVER_LIFETIME: Duration = Duration::days(396);
/// Clients whose clock is behind accept the certificate too.
const CLOCK_SKEW: Duration = Duration::days(1);
const RENEW_BEFORE: Duration = Duration::days(30);

/// Where distributions keep the system's roots, all in one file.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum LocalCaError {
    /// A file could not be read or written.
    #[error("{step}")]
    File {
        step: &'static str,
        #[source]
        source: FileError,
    },
    /// Key or certificate could not be made.
    #[error("{step}")]
    Certificate {
        step: &'static str,
        #[source]
        source: rcgen::Error,
    },
}

/// What [`ensure`] had to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Everything was there and in date.
    Nothing,
    /// A new server certificate of the same CA: clients that trust it need nothing new.
    Certificate,
    /// A new CA, which clients must be told to trust, and its certificate.
    Authority,
}

/// What the files in the folder are. Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The domain they are for.
    pub domain: String,
    /// End of the CA.
    pub ca_not_after: i64,
    /// End of the server certificate; 0 while it is being replaced.
    pub server_not_after: i64,
}

/// The CA's certificate, for browsers.
pub fn ca_cert(dir: &Path) -> PathBuf {
    dir.join(CA_CERT)
}

/// The system's roots and the local CA, for everything else.
pub fn bundle(dir: &Path) -> PathBuf {
    dir.join(BUNDLE)
}

/// What was made here; `None` when nothing was, or not to the end.
pub fn record(dir: &Path) -> Option<Record> {
    let text = read_if_there(&dir.join(RECORD)).ok()??;
    serde_json::from_str(&text).ok()
}

/// Makes or renews what is missing or near its end. Also called by the server at its start.
pub fn ensure(dir: &Path, domain: &str, now: OffsetDateTime) -> Result<Made, LocalCaError> {
    let threshold = (now + RENEW_BEFORE).unix_timestamp();
    let there = |names: &[&str]| names.iter().all(|n| dir.join(n).is_file());
    let old = record(dir).filter(|r| r.domain == domain && there(&[CA_KEY, CA_CERT]) && r.ca_not_after > threshold);
    let made = match old {
        Some(r) if r.server_not_after > threshold && there(&[SERVER_KEY, SERVER_CERT]) => Made::Nothing,
        Some(r) => {
            issue(dir, r, now)?;
            Made::Certificate
        }
        None => {
            let record = new_authority(dir, domain, now)?;
            issue(dir, record, now)?;
            Made::Authority
        }
    };
    write_bundle(dir)?;
    Ok(made)
}

fn new_authority(dir: &Path, domain: &str, now: OffsetDateTime) -> Result<Record, LocalCaError> {
    let failed = |source| LocalCaError::Certificate { step: "make the CA", source };
    // From here until the record is written, an interruption means starting over.
    let _ = std::fs::remove_file(dir.join(RECORD));
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = authority_params(domain);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + CA_LIFETIME;
    let cert = params.self_signed(&key).map_err(failed)?;
    write(dir, CA_KEY, &key.serialize_pem(), Access::Private)?;
    write(dir, CA_CERT, &cert.pem(), Access::Public)?;
    let ca_not_after = params.not_after.unix_timestamp();
    Ok(Record { domain: domain.to_owned(), ca_not_after, server_not_after: 0 })
}

/// Name and constraints: what the issuer of a certificate is recognised by.
fn authority_params(domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("Leapbox local CA for {domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Whoever gets hold of the key can sign for no other site: the CA is trusted by the user's browser.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    params
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn issue(dir: &Path, record: Record, now: OffsetDateTime) -> Result<(), LocalCaError> {
    let failed = |source| LocalCaError::Certificate { step: "make the server certificate", source };
    let ca_key =
        read_if_there(&dir.join(CA_KEY)).map_err(|source| LocalCaError::File { step: "read the CA", source })?;
    let ca_key = KeyPair::from_pem(&ca_key.unwrap_or_default()).map_err(failed)?;
    let issuer = Issuer::new(authority_params(&record.domain), ca_key);

    let key = KeyPair::generate().map_err(failed)?;
    let names = vec![record.domain.clone(), format!("*.{}", record.domain)];
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = name(&record.domain);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + SERVER_LIFETIME;
    let cert = params.signed_by(&key, &issuer).map_err(failed)?;

    // Between the two files they would not fit each other: the record says so.
    write_record(dir, &Record { server_not_after: 0, ..record.clone() })?;
    write(dir, SERVER_KEY, &key.serialize_pem(), Access::Private)?;
    write(dir, SERVER_CERT, &cert.pem(), Access::Public)?;
    write_record(dir, &Record { server_not_after: params.not_after.unix_timestamp(), ..record })
}

fn write(dir: &Path, file: &str, text: &str, access: Access) -> Result<(), LocalCaError> {
    write_file(&dir.join(file), text, access)
        .map_err(|source| LocalCaError::File { step: "keep the certificates", source })
}

fn write_record(dir: &Path, record: &Record) -> Result<(), LocalCaError> {
    // A record of plain fields always serialises; an empty text would only mean that all is made anew.
    let text = serde_json::to_string_pretty(record).unwrap_or_default();
    write(dir, RECORD, &text, Access::Public)
}

/// Clients that are told of one file trust nothing else: so the system's roots are in it, as they are today.
fn write_bundle(dir: &Path) -> Result<(), LocalCaError> {
    let failed = |source| LocalCaError::File { step: "read the CA", source };
    let ours = read_if_there(&ca_cert(dir)).map_err(failed)?.unwrap_or_default();
    let roots = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let text = format!("{}\n{ours}", roots.trim_end());
    if read_if_there(&bundle(dir)).map_err(failed)?.as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    write(dir, BUNDLE, &text, Access::Public)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const DOMAIN: &str = "sandbox.localhost";

    fn read(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).expect("a file")
    }

    #[test]
    fn a_second_run_makes_nothing_and_keys_are_their_owners_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = OffsetDateTime::now_utc();
        assert_eq!(ensure(dir.path(), DOMAIN, now).expect("made"), Made::Authority);
        assert_eq!(ensure(dir.path(), DOMAIN, now).expect("kept"), Made::Nothing);
        for key in [CA_KEY, SERVER_KEY] {
            let mode = std::fs::metadata(dir.path().join(key)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn a_certificate_near_its_end_is_renewed_by_the_same_ca() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = OffsetDateTime::now_utc();
        ensure(dir.path(), DOMAIN, now).expect("made");
        let (ca, cert) = (read(dir.path(), CA_CERT), read(dir.path(), SERVER_CERT));
        let later = now + SERVER_LIFETIME - Duration::days(7);
        assert_eq!(ensure(dir.path(), DOMAIN, later).expect("renewed"), Made::Certificate);
        assert_eq!(read(dir.path(), CA_CERT), ca);
        assert_ne!(read(dir.path(), SERVER_CERT), cert);
    }

    #[test]
    fn another_domain_needs_another_ca() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = OffsetDateTime::now_utc();
        ensure(dir.path(), DOMAIN, now).expect("made");
        assert_eq!(ensure(dir.path(), "boxes.example.com", now).expect("made"), Made::Authority);
    }

    #[test]
    fn an_interruption_between_key_and_certificate_is_repaired() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = OffsetDateTime::now_utc();
        ensure(dir.path(), DOMAIN, now).expect("made");
        let record = record(dir.path()).expect("a record");
        write_record(dir.path(), &Record { server_not_after: 0, ..record }).expect("written");
        assert_eq!(ensure(dir.path(), DOMAIN, now).expect("renewed"), Made::Certificate);
    }
}
