//! The certificate's places on the guest's disk, so that programs which ask the system find it, too.
//!
//! ```text
//! install: source folder (what `update-ca-certificates` reads) ─▶ bundles ─▶ links by hash ─▶ logins, sudo
//! remove:  all of it, and nothing else
//! ```
//!
//! The files are the guest's: each may be missing, or anything its root has made of it. What fails is told on the
//! console, and the rest is done all the same.

use super::bundle::{self, Certificate};
use super::environment::{profile, sudoers};
use super::tree::{Attributes, Content, Tree};
use crate::log;
use leapbox_errors::chain;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

/// What `update-ca-certificates` (Debian, Alpine) and its like (Fedora, openSUSE) make bundles of. The first is made
/// where it is missing: the guest may install such a program later.
const SOURCES: [&str; 3] = [
    "/usr/local/share/ca-certificates/leapbox-egress.crt",
    "/etc/pki/ca-trust/source/anchors/leapbox-egress.pem",
    "/etc/pki/trust/anchors/leapbox-egress.pem",
];
/// Bundles of distributions; the second and the fourth are where the links lead that are known by the names below
/// them. The first is made where there is none.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// OpenSSL's folder of certificates, and the name ours has in it (as Debian's program gives it).
const HASHED: &str = "/etc/ssl/certs";
const NAME: &str = "leapbox-egress.pem";
/// OpenSSL finds a certificate in the folder by this hash of its subject.
const HASH: &str = "e9413f08";
const PROFILE: &str = "/etc/profile.d/leapbox-egress.sh";
const SUDOERS: &str = "/etc/sudoers.d/leapbox-egress";
const PUBLIC: Attributes = Attributes::of_root(0o644);

/// The guest's root folder.
#[derive(Debug)]
pub(super) struct Disk {
    tree: Tree,
}

/// The bundle that the system's programs read.
pub(super) struct SystemBundle {
    pub(super) bytes: Vec<u8>,
    place: Place,
}

/// Whether a bundle can be changed.
enum Place {
    /// A file, or where one is to be made.
    File(&'static str, Attributes),
    /// It is found through links only, or there is something that is no file.
    NotOurs,
}

impl Disk {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { tree: Tree::open(root)? })
    }

    /// The first bundle that can be changed, else the first that can be read, else an empty one where there is none.
    pub(super) fn system_bundle(&self) -> SystemBundle {
        let file = BUNDLES.into_iter().find_map(|path| Some((path, self.tree.read(path).ok()??)));
        if let Some((path, Content { bytes, attributes })) = file {
            return SystemBundle { bytes, place: Place::File(path, attributes) };
        }
        let linked = BUNDLES.into_iter().find_map(|path| self.tree.read_through_links(path).ok()?);
        let free = linked.is_none() && matches!(self.tree.read(BUNDLES[0]), Ok(None));
        let place = if free { Place::File(BUNDLES[0], PUBLIC) } else { Place::NotOurs };
        SystemBundle { bytes: linked.map(|content| content.bytes).unwrap_or_default(), place }
    }

    /// The first bundle that the system's programs can read, or where they would look for it.
    pub(super) fn system_path(&self) -> &'static str {
        let readable = |path: &&str| matches!(self.tree.read_through_links(path), Ok(Some(_)));
        BUNDLES.into_iter().find(readable).unwrap_or(BUNDLES[0])
    }

    /// Puts the certificate into all its places. The path of the system's bundle, where that is `joined` now, which has
    /// it.
    pub(super) fn install(
        &self,
        certificate: &Certificate,
        system: &SystemBundle,
        joined: &[u8],
    ) -> Option<&'static str> {
        self.write_sources(certificate);
        let written = self.write_system(&system.place, joined);
        for path in BUNDLES.into_iter().filter(|path| !matches!(system.place, Place::File(tried, _) if tried == *path))
        {
            self.edit(path, |old| bundle::with(old, certificate));
        }
        self.link_by_hash();
        for (path, text, mode) in [(PROFILE, profile(), 0o644), (SUDOERS, sudoers(), 0o440)] {
            if self.tree.has_folder(parent(path)) {
                told(path, self.tree.write(path, text.as_bytes(), Attributes::of_root(mode)));
            }
        }
        written
    }

    /// Takes every certificate of a sandbox's own authority out of all places.
    pub(super) fn remove(&self) {
        for path in SOURCES.into_iter().chain([PROFILE, SUDOERS]) {
            told(path, self.tree.remove(path));
        }
        for path in BUNDLES {
            self.edit(path, bundle::without);
        }
        for path in hashed_names().filter(|path| self.is_our_link(path)) {
            told(&path, self.tree.remove(&path));
        }
        let named = format!("{HASHED}/{NAME}");
        if self.is_link_to_source(&named) {
            told(&named, self.tree.remove(&named));
        }
    }

    fn write_system(&self, place: &Place, joined: &[u8]) -> Option<&'static str> {
        match place {
            Place::File(path, attributes) => {
                let made = self.tree.make_folder(parent(path));
                told(path, made.and_then(|()| self.tree.write(path, joined, *attributes))).then_some(*path)
            }
            Place::NotOurs => {
                log::line(format_args!("the sandbox's certificate: the system has no bundle that can be changed"));
                None
            }
        }
    }

    fn write_sources(&self, certificate: &Certificate) {
        let [first, others @ ..] = SOURCES;
        let made = self.tree.make_folder(parent(first));
        told(first, made.and_then(|()| self.tree.write(first, certificate.pem().as_bytes(), PUBLIC)));
        for path in others.into_iter().filter(|path| self.tree.has_folder(parent(path))) {
            told(path, self.tree.write(path, certificate.pem().as_bytes(), PUBLIC));
        }
    }

    /// Changes a bundle that is there; one in which nothing is left is removed. A link is not: it leads to another one.
    fn edit(&self, path: &str, change: impl Fn(&[u8]) -> Vec<u8>) {
        let old = match self.tree.read(path) {
            Ok(None) => return,
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return,
            Ok(Some(old)) => old,
            Err(error) => {
                told(path, Err(error));
                return;
            }
        };
        let new = change(&old.bytes);
        if new.is_empty() && !old.bytes.is_empty() {
            told(path, self.tree.remove(path));
        } else {
            told(path, self.tree.write(path, &new, old.attributes));
        }
    }

    /// The links that Debian's `update-ca-certificates` would make.
    fn link_by_hash(&self) {
        if !self.tree.has_folder(HASHED) {
            return;
        }
        let named = format!("{HASHED}/{NAME}");
        let linked = told(&named, self.tree.link(&named, SOURCES[0]));
        if !linked || hashed_names().any(|path| self.is_our_link(&path)) {
            return;
        }
        // Places are taken in turn, and OpenSSL stops at the first free one.
        if let Some(free) = hashed_names().find(|path| self.is_free(path)) {
            told(&free, self.tree.link(&free, NAME));
        }
    }

    fn is_our_link(&self, path: &str) -> bool {
        let target = self.tree.target(path).ok().flatten();
        // `ca-cert-` is what Alpine's program puts before the name.
        target.is_some_and(|target| target == NAME || target == OsStr::new(&format!("ca-cert-{NAME}")))
    }

    fn is_link_to_source(&self, path: &str) -> bool {
        self.tree.target(path).ok().flatten().is_some_and(|target| target == SOURCES[0])
    }

    fn is_free(&self, path: &str) -> bool {
        matches!(self.tree.target(path), Ok(None)) && matches!(self.tree.read(path), Ok(None))
    }
}

/// Where OpenSSL looks for a certificate of this subject.
fn hashed_names() -> impl Iterator<Item = String> {
    (0..10).map(|number| format!("{HASHED}/{HASH}.{number}"))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether it worked; what did not is told on the console.
fn told(path: &str, done: io::Result<()>) -> bool {
    if let Err(error) = &done {
        log::line(format_args!("the sandbox's certificate: {path}: {}", chain(&error)));
    }
    done.is_ok()
}
