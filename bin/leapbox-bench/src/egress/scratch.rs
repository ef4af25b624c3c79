//! The folder of one run: an authority of its own, and a certificate for the servers out there and for nginx.

use super::{EgressError, TRANSFORMED, io};
use leapbox_errors::chain;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Its folder is removed by the process that has made it.
pub(super) struct Scratch {
    folder: PathBuf,
    is_ours: bool,
}

impl Scratch {
    /// Makes the folder with everything in it.
    pub fn make() -> Result<Self, EgressError> {
        // Process ids alone are not enough where runs have process namespaces of their own.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let folder = std::env::temp_dir().join(format!("leapbox-bench-egress-{}-{now:x}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&folder).map_err(io("making a folder for the run"))?;
        let scratch = Self { folder, is_ours: true };
        let authority_key = KeyPair::generate().map_err(EgressError::Certificate)?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        // OpenSSL takes a leaf with its issuer's name for one that has signed itself.
        authority.distinguished_name.push(DnType::CommonName, "Leapbox bench");
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let own = authority.self_signed(&authority_key).map_err(EgressError::Certificate)?;
        // ECDSA P-256 by default, as the leaves of a sandbox's authority have it.
        let key = KeyPair::generate().map_err(EgressError::Certificate)?;
        let leaf = CertificateParams::new(vec![TRANSFORMED.to_owned()]).map_err(EgressError::Certificate)?;
        let issuer = Issuer::new(authority, authority_key);
        let leaf = leaf.signed_by(&key, &issuer).map_err(EgressError::Certificate)?;
        scratch.write(&scratch.authority(), &own.pem())?;
        scratch.write(&scratch.certificate(), &leaf.pem())?;
        scratch.write(&scratch.key(), &key.serialize_pem())?;
        Ok(scratch)
    }

    /// The folder another process has made.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder, is_ours: false }
    }

    pub fn write(&self, path: &Path, text: &str) -> Result<(), EgressError> {
        std::fs::write(path, text).map_err(io("writing a file of the run"))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whom the upstream side is verified against, in PEM.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// The authority of the stand-in's sandbox, in PEM.
    pub fn sandbox_authority(&self) -> PathBuf {
        self.folder.join("sandbox.pem")
    }

    pub fn certificate(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_ours
            && let Err(error) = std::fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(path = %self.folder.display(), error = %chain(&error), "could not remove the run's folder");
        }
    }
}
