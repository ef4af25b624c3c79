//! The folder of one comparison: an authority of its own, and a certificate for the servers and for nginx.

use anyhow::{Context, Result};
use leapbox_errors::{FileError, chain};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Its folder is removed by the process that has made it.
pub struct Scratch {
    folder: PathBuf,
    is_ours: bool,
}

impl Scratch {
    /// Makes the folder, with a certificate for these names.
    pub fn make(comparison: &str, names: &[&str]) -> Result<Self> {
        // Process ids alone are not enough where runs have process namespaces of their own.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = format!("leapbox-bench-{comparison}-{}-{now:x}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&folder).map_err(FileError::of("making", &folder))?;
        let scratch = Self { folder, is_ours: true };
        scratch.write_certificates(names)?;
        Ok(scratch)
    }

    fn write_certificates(&self, names: &[&str]) -> Result<()> {
        let [authority, certificate, key] = certificates(names).context("making a certificate")?;
        self.write(&self.authority(), &authority)?;
        self.write(&self.certificate(), &certificate)?;
        self.write(&self.key(), &key)
    }

    /// The folder another process has made.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder, is_ours: false }
    }

    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        Ok(std::fs::write(path, text).map_err(FileError::of("writing", path))?)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Who has signed the certificate, in PEM.
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

/// An authority, a certificate that it has signed, and that one's key, in PEM.
fn certificates(names: &[&str]) -> Result<[String; 3], rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    // OpenSSL takes a leaf with its issuer's name for one that has signed itself.
    authority.distinguished_name.push(DnType::CommonName, "Leapbox bench");
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let own = authority.self_signed(&authority_key)?;
    // ECDSA P-256 by default, as the leaves of a sandbox's authority have it.
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(names.iter().copied().map(str::to_owned).collect::<Vec<_>>())?;
    let leaf = leaf.signed_by(&key, &Issuer::new(authority, authority_key))?;
    Ok([own.pem(), leaf.pem(), key.serialize_pem()])
}
