//! The artifacts folder: immutable, content-addressed, shared by every server that is pointed at it.
//!
//! ```text
//! artifacts/kernel/<version>-<digest>/{vmlinux, modules/, config}
//!           initramfs/<digest>/initrd
//!           rootfs/<digest>/{root.erofs, image.json}
//!           current.json     which of them are in use: replaced atomically
//!           images/, imported/   every image there ever was, by digest: see `images`
//!           tmp/, lock       the Workshop's
//! ```
//!
//! Nothing here is ever changed in place or deleted while a server may use it: a rebuilt artifact gets a folder of
//! its own.

mod export;
mod images;
mod manifest;
mod workshop;

pub use manifest::{KernelArtifact, Manifest, StoredArtifact};
pub(crate) use workshop::NewArtifact;
pub use workshop::Workshop;

use crate::error::ArtifactError;
use images::ImageParts;
use leapbox_errors::FileError;
use leapbox_guest_protocol::ImageConfig;
use leapbox_vmm::GuestImage;
use std::path::{Path, PathBuf};

/// The system template every sandbox gets unless it asks for another.
pub const SYSTEM_DEBIAN: &str = "system/debian:bookworm";

pub(crate) const KERNEL_FILE: &str = "vmlinux";
pub(crate) const INITRAMFS_FILE: &str = "initrd";
pub(crate) const ROOTFS_FILE: &str = "root.erofs";
pub(crate) const IMAGE_FILE: &str = "image.json";

/// The artifacts in use, as they were when the folder was opened. Cheap to keep; reading it takes no lock.
#[derive(Debug, Clone)]
pub struct Artifacts {
    dir: PathBuf,
    manifest: Manifest,
}

impl Artifacts {
    /// Reads `current.json` of an artifacts folder.
    ///
    /// # Errors
    /// [`ArtifactError::NotBuilt`] when set-up has never run there.
    pub fn open(dir: &Path) -> Result<Self, ArtifactError> {
        let manifest = Manifest::read(dir)?
            .ok_or_else(|| ArtifactError::NotBuilt { what: "anything".to_owned(), dir: dir.to_owned() })?;
        // An absolute path, because machines are started with another working folder.
        let dir = dir.canonicalize().map_err(FileError::of("open the artifacts folder", dir))?;
        Ok(Self { dir, manifest })
    }

    /// What `current.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names of the templates that are built, sorted.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        self.manifest.templates.keys().map(String::as_str)
    }

    /// Kernel, initramfs and root file system of a template, checked to be there in full length (not their
    /// digests: see [`Artifacts::verify`]).
    pub fn guest_image(&self, template: &str) -> Result<GuestImage, ArtifactError> {
        self.parts(template)?.image(&self.dir)
    }

    /// User, folders, environment and port of a template's processes.
    pub fn image_config(&self, template: &str) -> Result<ImageConfig, ArtifactError> {
        self.parts(template)?.config(&self.dir)
    }

    /// Compares the content of everything in use with the recorded digests. Reads some hundred MB.
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
