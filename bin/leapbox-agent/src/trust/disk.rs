//! Puts the certificate into the system's places on the guest's disk, for programs that use the system's trust store.
//! Called by the trust worker's thread.
//!
//! ```text
//! install: source directory (which `update-ca-certificates` reads) ─▶ bundles ─▶ links by hash ─▶ logins, sudo
//! remove:  all of it, and nothing else
//! ```
//!
//! The files are the guest's: each may be missing, or anything its root has made of it. A step that fails is logged on
//! the console, and the others are done all the same.

use super::bundle::{self, Certificate};
use super::environment::{profile, sudoers};
use super::tree::{Attributes, Content, Tree};
use crate::log;
use leapbox_errors::chain;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

/// Source files from which `update-ca-certificates` (Debian, Alpine) and its like (Fedora, openSUSE) make bundles. The
/// first one's directory is made if it is missing, because the guest may install such a program later.
const SOURCES: [&str; 3] = [
    "/usr/local/share/ca-certificates/leapbox-egress.crt",
    "/etc/pki/ca-trust/source/anchors/leapbox-egress.pem",
    "/etc/pki/trust/anchors/leapbox-egress.pem",
];
/// Bundles of distributions, of which the first is made if there is none. On Fedora the third is a link to the second,
/// and on openSUSE the fifth to the fourth.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// OpenSSL's directory of certificates, and the name that Debian's `update-ca-certificates` gives ours in it.
const HASHED: &str = "/etc/ssl/certs";
const NAME: &str = "leapbox-egress.pem";
/// OpenSSL's hash of the subject of every sandbox's authority (`openssl x509 -subject_hash`), by which OpenSSL finds a
/// certificate in the directory.
const HASH: &str = "e9413f08";
const PROFILE: &str = "/etc/profile.d/leapbox-egress.sh";
const SUDOERS: &str = "/etc/sudoers.d/leapbox-egress";
const PUBLIC: Attributes = Attributes::of_root(0o644);

/// The guest's disk, as the tree below its root directory.
#[derive(Debug)]
pub(super) struct Disk {
    tree: Tree,
}

/// The bundle that the system's programs read, and where to write it.
pub(super) struct SystemBundle {
    pub(super) bytes: Vec<u8>,
    target: BundleTarget,
}

/// The file that a changed bundle is written to.
enum BundleTarget {
    /// A regular file, or the path at which one is to be made.
    File(&'static str, Attributes),
    /// None: the bundle is found through symbolic links only, or something else is in its place.
    Unchangeable,
}

impl Disk {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { tree: Tree::open(root)? })
    }

    /// Reads the first bundle that can be changed, else the first that can be read, else returns an empty one.
    pub(super) fn system_bundle(&self) -> SystemBundle {
        let file = BUNDLES.into_iter().find_map(|path| Some((path, self.tree.read(path).ok()??)));
        if let Some((path, Content { bytes, attributes })) = file {
            return SystemBundle { bytes, target: BundleTarget::File(path, attributes) };
        }
        let linked = BUNDLES.into_iter().find_map(|path| self.tree.read_through_links(path).ok()?);
        let free = linked.is_none() && matches!(self.tree.read(BUNDLES[0]), Ok(None));
        let target = if free { BundleTarget::File(BUNDLES[0], PUBLIC) } else { BundleTarget::Unchangeable };
        SystemBundle { bytes: linked.map(|content| content.bytes).unwrap_or_default(), target }
    }

    /// The path of the first bundle that the system's programs can read, or else the first path where they look.
    pub(super) fn system_path(&self) -> &'static str {
        let readable = |path: &&str| matches!(self.tree.read_through_links(path), Ok(Some(_)));
        BUNDLES.into_iter().find(readable).unwrap_or(BUNDLES[0])
    }

    /// Puts the certificate into all its places. Returns the path of the system's bundle if it was written: it is
    /// `joined` now, which contains the certificate.
    pub(super) fn install(
        &self,
        certificate: &Certificate,
        system: &SystemBundle,
        joined: &[u8],
    ) -> Option<&'static str> {
        self.write_sources(certificate);
        let written = self.write_system(&system.target, joined);
        for path in
            BUNDLES.into_iter().filter(|path| !matches!(system.target, BundleTarget::File(tried, _) if tried == *path))
        {
            self.edit(path, |old| bundle::with(old, certificate));
        }
        self.link_by_hash();
        for (path, text, mode) in [(PROFILE, profile(), 0o644), (SUDOERS, sudoers(), 0o440)] {
            if self.tree.has_folder(parent(path)) {
                logged(path, self.tree.write(path, text.as_bytes(), Attributes::of_root(mode)));
            }
        }
        written
    }

    /// Removes every certificate of a sandbox's own authority from all places.
    pub(super) fn remove(&self) {
        for path in SOURCES.into_iter().chain([PROFILE, SUDOERS]) {
            logged(path, self.tree.remove(path));
        }
        for path in BUNDLES {
            self.edit(path, bundle::without);
        }
        for path in hashed_names().filter(|path| self.is_our_link(path)) {
            logged(&path, self.tree.remove(&path));
        }
        let named = format!("{HASHED}/{NAME}");
        if self.is_link_to_source(&named) {
            logged(&named, self.tree.remove(&named));
        }
    }

    fn write_system(&self, target: &BundleTarget, joined: &[u8]) -> Option<&'static str> {
        match target {
            BundleTarget::File(path, attributes) => {
                let made = self.tree.make_folder(parent(path));
                logged(path, made.and_then(|()| self.tree.write(path, joined, *attributes))).then_some(*path)
            }
            BundleTarget::Unchangeable => {
                log::line(format_args!(
                    "the sandbox's certificate: no bundle of the system is a regular file, so none is changed"
                ));
                None
            }
        }
    }

    fn write_sources(&self, certificate: &Certificate) {
        let [first, others @ ..] = SOURCES;
        let made = self.tree.make_folder(parent(first));
        logged(first, made.and_then(|()| self.tree.write(first, certificate.pem().as_bytes(), PUBLIC)));
        for path in others.into_iter().filter(|path| self.tree.has_folder(parent(path))) {
            logged(path, self.tree.write(path, certificate.pem().as_bytes(), PUBLIC));
        }
    }

    /// Changes a bundle that exists, and removes one that becomes empty.
    fn edit(&self, path: &str, change: impl Fn(&[u8]) -> Vec<u8>) {
        let old = match self.tree.read(path) {
            Ok(None) => return,
            // A symbolic link, which leads to another bundle of the list: that one is changed under its own name.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return,
            Ok(Some(old)) => old,
            Err(error) => {
                logged(path, Err(error));
                return;
            }
        };
        let new = change(&old.bytes);
        if new.is_empty() && !old.bytes.is_empty() {
            logged(path, self.tree.remove(path));
        } else {
            logged(path, self.tree.write(path, &new, old.attributes));
        }
    }

    /// Makes the links that Debian's `update-ca-certificates` would make.
    fn link_by_hash(&self) {
        if !self.tree.has_folder(HASHED) {
            return;
        }
        let named = format!("{HASHED}/{NAME}");
        let linked = logged(&named, self.tree.link(&named, SOURCES[0]));
        if !linked || hashed_names().any(|path| self.is_our_link(&path)) {
            return;
        }
        // Certificates with one hash are numbered from 0, and OpenSSL stops at the first number that is missing.
        if let Some(free) = hashed_names().find(|path| self.is_free(path)) {
            logged(&free, self.tree.link(&free, NAME));
        }
    }

    fn is_our_link(&self, path: &str) -> bool {
        let target = self.tree.target(path).ok().flatten();
        // Alpine's `update-ca-certificates` puts `ca-cert-` before the name.
        target.is_some_and(|target| target == NAME || target == OsStr::new(&format!("ca-cert-{NAME}")))
    }

    fn is_link_to_source(&self, path: &str) -> bool {
        self.tree.target(path).ok().flatten().is_some_and(|target| target == SOURCES[0])
    }

    fn is_free(&self, path: &str) -> bool {
        matches!(self.tree.target(path), Ok(None)) && matches!(self.tree.read(path), Ok(None))
    }
}

/// The first ten paths at which OpenSSL looks for a certificate of this subject.
fn hashed_names() -> impl Iterator<Item = String> {
    (0..10).map(|number| format!("{HASHED}/{HASH}.{number}"))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether a step on this path succeeded; a failure is logged on the console.
fn logged(path: &str, done: io::Result<()>) -> bool {
    if let Err(error) = &done {
        log::line(format_args!("the sandbox's certificate: {path}: {}", chain(&error)));
    }
    done.is_ok()
}
