//! Makes the local certificate authority and the gateway's certificate for `*.<domain>`. Called by `setup`, by a server
//! that runs, and by `leapbox-bench`.
//!
//! ```text
//! ca.key ─signs─► ca.pem (for this domain alone: name constraints; made by set-up alone)
//!            └──► server.pem, server.key (397 days; renewed in the last 30 of them, by set-up or the server)
//! the system's roots + ca.pem ─► bundle.pem (to which `leapbox env` points clients)
//! record.json is written last: without it, everything is made anew
//! lock is held while anything of this is looked at to be changed, and changed
//! ```

use crate::state::{Access, read_if_there, write_file};
use leapbox_errors::FileError;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

const CA_KEY: &str = "ca.key";
const CA_CERT: &str = "ca.pem";
pub const SERVER_KEY: &str = "server.key";
pub const SERVER_CERT: &str = "server.pem";
const BUNDLE: &str = "bundle.pem";
const RECORD: &str = "record.json";
const LOCK: &str = "lock";

// Ten years: a new CA has to be trusted again by every browser.
const CA_LIFETIME: Duration = Duration::days(3650);
// With the skew below 397 days. Apple and the CA/Browser Forum refuse server certificates of more than 398.
const SERVER_LIFETIME: Duration = Duration::days(396);
// Certificates are valid from a day ago, so that a client whose clock is behind accepts them too.
const CLOCK_SKEW: Duration = Duration::days(1);
const RENEW_BEFORE: Duration = Duration::days(30);

/// Files in which distributions keep all of the system's roots.
pub(crate) const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A step of making the CA or the certificate that failed.
#[derive(Debug, thiserror::Error)]
pub enum LocalCaError {
    #[error("{step}")]
    File {
        step: &'static str,
        #[source]
        source: FileError,
    },
    #[error("{step}")]
    Certificate {
        step: &'static str,
        #[source]
        source: rcgen::Error,
    },
}

/// The files that [`ensure`] has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Everything was there and valid for long enough.
    Nothing,
    /// A new server certificate of the same CA: clients that trust it need nothing new.
    Certificate,
    /// A new CA, which clients have to trust anew, and a certificate of it.
    Authority,
}

/// What [`renew`] has found and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The certificate is valid for long enough.
    NotDue,
    /// There is a new certificate of the same CA: clients that trust it need nothing new.
    Renewed,
    /// Only set-up can do what is needed. Nothing was changed.
    NeedsSetup(NeedsSetup),
}

/// The reason why a server cannot renew its certificate itself: clients would have to trust another CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NeedsSetup {
    #[error("there is no local CA, or not all of it")]
    NoAuthority,
    #[error("the local CA is for another domain than the configured one")]
    OtherDomain,
    #[error("the local CA itself ends within 30 days")]
    AuthorityEnds,
}

/// The contents of `record.json`: the domain of the certificates, and when they end, in Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub domain: String,
    pub ca_not_after: i64,
    /// 0 while key and certificate are being replaced.
    pub server_not_after: i64,
}

impl Record {
    /// Whether the server certificate has to be made anew: it ends within 30 days, or it begins in the future because
    /// the clock was wrong when it was made.
    fn is_due(&self, now: OffsetDateTime) -> bool {
        let latest_end = now + SERVER_LIFETIME + CLOCK_SKEW;
        ends_soon(self.server_not_after, now) || self.server_not_after > latest_end.unix_timestamp()
    }
}

fn ends_soon(not_after: i64, now: OffsetDateTime) -> bool {
    not_after <= (now + RENEW_BEFORE).unix_timestamp()
}

/// The path of the CA's certificate, for browsers.
pub fn ca_cert(dir: &Path) -> PathBuf {
    dir.join(CA_CERT)
}

/// The path of the system's roots with the local CA, for all other clients.
pub fn bundle(dir: &Path) -> PathBuf {
    dir.join(BUNDLE)
}

/// Reads the record of a directory; `None` if nothing was made there, or not to the end.
pub fn record(dir: &Path) -> Option<Record> {
    let text = read_if_there(&dir.join(RECORD)).ok()??;
    serde_json::from_str(&text).ok()
}

/// Makes CA and certificate, or renews them if they end within 30 days or are for another domain.
pub fn ensure(dir: &Path, domain: &str, now: OffsetDateTime) -> Result<Made, LocalCaError> {
    let _lock = lock(dir)?;
    let fits = |r: &Record| r.domain == domain && !ends_soon(r.ca_not_after, now);
    let made = match record(dir).filter(|r| fits(r) && there(dir, [CA_KEY, CA_CERT])) {
        Some(r) if !r.is_due(now) && there(dir, [SERVER_KEY, SERVER_CERT]) => Made::Nothing,
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

/// Renews the server certificate if it is due and there is a CA for the domain. It never makes a CA: clients would stop
/// trusting the server without a word.
pub fn renew(dir: &Path, domain: &str, now: OffsetDateTime) -> Result<Renewal, LocalCaError> {
    let _lock = lock(dir)?;
    let Some(record) = record(dir).filter(|_| there(dir, [CA_KEY, CA_CERT])) else {
        return Ok(Renewal::NeedsSetup(NeedsSetup::NoAuthority));
    };
    if record.domain != domain {
        return Ok(Renewal::NeedsSetup(NeedsSetup::OtherDomain));
    }
    let authority_ends = ends_soon(record.ca_not_after, now);
    let authority_has_ended = record.ca_not_after <= now.unix_timestamp();
    if !authority_has_ended && (record.is_due(now) || !there(dir, [SERVER_KEY, SERVER_CERT])) {
        issue(dir, record, now)?;
        return Ok(Renewal::Renewed);
    }
    Ok(if authority_ends { Renewal::NeedsSetup(NeedsSetup::AuthorityEnds) } else { Renewal::NotDue })
}

/// Waits until no other process makes or renews anything in the directory: of two at a time, one's key and the other's
/// certificate could remain. The kernel releases the lock when the file is closed, however the process ends.
fn lock(dir: &Path) -> Result<File, LocalCaError> {
    let path = dir.join(LOCK);
    let locked = File::create(&path).and_then(|file| file.lock().map(|()| file));
    let failed = |source| LocalCaError::File { step: "waiting for another set-up or server", source };
    locked.map_err(FileError::of("locking", &path)).map_err(failed)
}

fn there(dir: &Path, names: [&str; 2]) -> bool {
    names.iter().all(|name| dir.join(name).is_file())
}

fn new_authority(dir: &Path, domain: &str, now: OffsetDateTime) -> Result<Record, LocalCaError> {
    let failed = |source| LocalCaError::Certificate { step: "making the CA", source };
    // Removed first: without a record, a run that is interrupted from here on is started over by the next.
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

/// Returns name and constraints of the CA. They are a function of the domain, so that a certificate can be issued from
/// the CA's key alone.
fn authority_params(domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("Leapbox local CA for {domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // The user's browser trusts this CA. With the constraints, whoever gets hold of its key can sign for no other site
    // and no address.
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
    let failed = |source| LocalCaError::Certificate { step: "making the server certificate", source };
    let ca_key =
        read_if_there(&dir.join(CA_KEY)).map_err(|source| LocalCaError::File { step: "reading the CA", source })?;
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

    // Between the two writes key and certificate do not fit each other. The 0 in the record makes the next run replace
    // both.
    write_record(dir, &Record { server_not_after: 0, ..record.clone() })?;
    write(dir, SERVER_KEY, &key.serialize_pem(), Access::Private)?;
    write(dir, SERVER_CERT, &cert.pem(), Access::Public)?;
    write_record(dir, &Record { server_not_after: params.not_after.unix_timestamp(), ..record })
}

fn write(dir: &Path, file: &str, text: &str, access: Access) -> Result<(), LocalCaError> {
    write_file(&dir.join(file), text, access)
        .map_err(|source| LocalCaError::File { step: "writing the certificates", source })
}

fn write_record(dir: &Path, record: &Record) -> Result<(), LocalCaError> {
    // Plain fields always serialise. An empty text would only mean that everything is made anew.
    let text = serde_json::to_string_pretty(record).unwrap_or_default();
    write(dir, RECORD, &text, Access::Public)
}

/// Writes the bundle of the system's roots and the local CA, if it has changed.
fn write_bundle(dir: &Path) -> Result<(), LocalCaError> {
    // Clients that are given a bundle trust nothing besides, so it must contain the system's roots. Distributions
    // update those, which is why this is done at every set-up.
    let failed = |source| LocalCaError::File { step: "reading the CA", source };
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

    fn renewed(dir: &Path, domain: &str, now: OffsetDateTime) -> Renewal {
        renew(dir, domain, now).expect("looked at")
    }

    #[test]
    fn a_server_renews_its_certificate_in_the_last_30_days_by_the_same_ca() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = OffsetDateTime::now_utc();
        ensure(dir.path(), DOMAIN, now).expect("made");
        let (ca, cert) = (read(dir.path(), CA_CERT), read(dir.path(), SERVER_CERT));
        let end = now + SERVER_LIFETIME;
        assert_eq!(renewed(dir.path(), DOMAIN, end - Duration::days(31)), Renewal::NotDue);
        assert_eq!(read(dir.path(), SERVER_CERT), cert);
        assert_eq!(renewed(dir.path(), DOMAIN, end - Duration::days(29)), Renewal::Renewed);
        assert_eq!(read(dir.path(), CA_CERT), ca);
        assert_ne!(read(dir.path(), SERVER_CERT), cert);
        assert_eq!(renewed(dir.path(), DOMAIN, end), Renewal::NotDue);
    }

    #[test]
    fn a_server_never_makes_a_ca() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = OffsetDateTime::now_utc();
        let needs = |found: Renewal, reason| assert_eq!(found, Renewal::NeedsSetup(reason));
        needs(renewed(dir.path(), DOMAIN, now), NeedsSetup::NoAuthority);
        assert!(!dir.path().join(CA_CERT).exists());
        ensure(dir.path(), DOMAIN, now).expect("made");
        let before = [CA_CERT, CA_KEY, SERVER_CERT, SERVER_KEY, RECORD].map(|name| read(dir.path(), name));
        needs(renewed(dir.path(), "boxes.example.com", now), NeedsSetup::OtherDomain);
        needs(renewed(dir.path(), DOMAIN, now + CA_LIFETIME), NeedsSetup::AuthorityEnds);
        let after = [CA_CERT, CA_KEY, SERVER_CERT, SERVER_KEY, RECORD].map(|name| read(dir.path(), name));
        assert_eq!(after, before);
        // A CA that still is valid can sign; that it ends is said at the next look.
        let soon = now + CA_LIFETIME - Duration::days(20);
        assert_eq!(renewed(dir.path(), DOMAIN, soon), Renewal::Renewed);
        needs(renewed(dir.path(), DOMAIN, soon), NeedsSetup::AuthorityEnds);
        assert_eq!(read(dir.path(), CA_CERT), before[0]);
        std::fs::remove_file(dir.path().join(CA_KEY)).expect("removed");
        needs(renewed(dir.path(), DOMAIN, now), NeedsSetup::NoAuthority);
    }

    #[test]
    fn a_certificate_that_a_wrong_clock_has_put_into_the_future_is_renewed_once_the_clock_is_right() {
        let dir = tempfile::tempdir().expect("temp dir");
        let now = OffsetDateTime::now_utc();
        ensure(dir.path(), DOMAIN, now).expect("made");
        let wrong = now + Duration::days(1000);
        assert_eq!(renewed(dir.path(), DOMAIN, wrong), Renewal::Renewed);
        assert_eq!(renewed(dir.path(), DOMAIN, now), Renewal::Renewed);
        assert_eq!(renewed(dir.path(), DOMAIN, now), Renewal::NotDue);
        assert_eq!(ensure(dir.path(), DOMAIN, now).expect("kept"), Made::Nothing);
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
