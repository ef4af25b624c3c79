//! The artifacts directory: immutable, content-addressed, and shared by all servers that are configured with it.
//!
//! ```text
//! artifacts/kernel/<version>-<digest>/{vmlinux, modules/, config}
//!           initramfs/<digest>/initrd
//!           rootfs/<digest>/{root.erofs, image.json}
//!           current.json          the artifacts in use; replaced atomically
//!           images/, imported/    every guest image that was ever in use, by digest: see `images`
//!           tmp/, lock            of the ArtifactBuilder
//! ```
//!
//! An artifact is neither changed in place nor removed, because a server may use it: one that is built anew gets a
//! directory of its own.

mod builder;
mod export;
mod images;
mod manifest;

pub use builder::ArtifactBuilder;
pub(crate) use builder::NewArtifact;
pub use manifest::{KernelArtifact, Manifest, StoredArtifact};

use crate::error::ArtifactError;
use images::ImageParts;
use leapbox_errors::FileError;
use leapbox_guest_protocol::ImageConfig;
use leapbox_vmm::GuestImage;
use std::path::{Path, PathBuf};

/// The system template that a sandbox gets if its request names none.
pub const SYSTEM_DEBIAN: &str = "system/debian:bookworm";

pub(crate) const KERNEL_FILE: &str = "vmlinux";
pub(crate) const INITRAMFS_FILE: &str = "initrd";
pub(crate) const ROOTFS_FILE: &str = "root.erofs";
pub(crate) const IMAGE_FILE: &str = "image.json";

/// The artifacts that were in use when the directory was opened. No lock is needed to read them, because a builder
/// replaces `current.json` at once and changes no artifact.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
    manifest: Manifest,
}

impl Artifacts {
    /// Reads `current.json` of an artifacts directory.
    ///
    /// # Errors
    /// [`ArtifactError::NotBuilt`] if set-up has never run there.
    pub fn open(dir: &Path) -> Result<Self, ArtifactError> {
        let manifest = Manifest::read(dir)?
            .ok_or_else(|| ArtifactError::NotBuilt { what: "anything".to_owned(), dir: dir.to_owned() })?;
        // An absolute path, because machines are started with another working directory.
        let dir = dir.canonicalize().map_err(FileError::of("opening the artifacts directory", dir))?;
        Ok(Self { dir, manifest })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The names of the templates that are built, sorted.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        self.manifest.templates.keys().map(String::as_str)
    }

    /// The kernel, initramfs and root file system of a template. Owners, modes and lengths of the files are checked,
    /// but not their contents, which takes seconds: see [`Artifacts::verify`].
    pub fn guest_image(&self, template: &str) -> Result<GuestImage, ArtifactError> {
        self.parts(template)?.image(&self.dir)
    }

    /// The user, directories, environment and port of a template's processes.
    pub fn image_config(&self, template: &str) -> Result<ImageConfig, ArtifactError> {
        self.parts(template)?.config(&self.dir)
    }

    /// Compares the contents of all artifacts in use with their recorded digests. Reads some hundred MB.
    pub fn verify(&self) -> Result<(), ArtifactError> {
        self.kernel()?.stored.verify(&self.dir)?;
        self.initramfs()?.verify(&self.dir)?;
        self.manifest.templates.values().try_for_each(|stored| stored.verify(&self.dir))
    }

    fn parts(&self, template: &str) -> Result<ImageParts, ArtifactError> {
        Ok(ImageParts {
            kernel: self.kernel()?.stored.clone(),
            initramfs: self.initramfs()?.clone(),
            rootfs: self.template(template)?.clone(),
        })
    }

    fn kernel(&self) -> Result<&KernelArtifact, ArtifactError> {
        self.manifest.kernel.as_ref().ok_or_else(|| self.not_built("the guest kernel".to_owned()))
    }

    fn initramfs(&self) -> Result<&StoredArtifact, ArtifactError> {
        self.manifest.initramfs.as_ref().ok_or_else(|| self.not_built("the initramfs".to_owned()))
    }

    fn template(&self, name: &str) -> Result<&StoredArtifact, ArtifactError> {
        self.manifest.templates.get(name).ok_or_else(|| self.not_built(format!("the template {name}")))
    }

    fn not_built(&self, what: String) -> ArtifactError {
        ArtifactError::NotBuilt { what, dir: self.dir.clone() }
    }
}

#[cfg(test)]
mod tests;
