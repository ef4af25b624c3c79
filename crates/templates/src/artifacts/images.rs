//! Guest images by their digest: a stored sandbox may need an older one than its template has now.
//!
//! ```text
//! artifacts/images/<digest>.json    the kernel, initramfs and root file system of an image
//!           imported/<digest>/      an image that came from an archive: vmlinux, initrd, root.erofs, image.json
//! ```
//!
//! An image is registered whenever a new artifact is put into use, and its entry is never removed.

use super::manifest::{Manifest, StoredArtifact};
use super::{Artifacts, IMAGE_FILE};
use crate::error::ArtifactError;
use leapbox_errors::FileError;
use leapbox_guest_protocol::ImageConfig;
use leapbox_ids::ImageDigest;
use leapbox_storage::digest;
use leapbox_vmm::GuestImage;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const FOLDER: &str = "images";

/// The three artifacts of a guest image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageParts {
    pub kernel: StoredArtifact,
    pub initramfs: StoredArtifact,
    pub rootfs: StoredArtifact,
}

impl ImageParts {
    /// The image of a template; none if set-up has not built all of it yet.
    pub fn of_template(manifest: &Manifest, template: &str) -> Option<Self> {
        Some(Self {
            kernel: manifest.kernel.as_ref()?.stored.clone(),
            initramfs: manifest.initramfs.clone()?,
            rootfs: manifest.templates.get(template)?.clone(),
        })
    }

    pub fn digest(&self) -> ImageDigest {
        // Over the contents and not the paths, so that an image that was imported has the digest of the one exported.
        let [kernel, initramfs, rootfs] = self.files().map(|stored| stored.sha256.as_bytes());
        digest::of_parts(&[kernel, initramfs, rootfs]).into()
    }

    pub fn files(&self) -> [&StoredArtifact; 3] {
        [&self.kernel, &self.initramfs, &self.rootfs]
    }

    /// The absolute paths of the image's files, which are checked as by [`Artifacts::guest_image`].
    pub fn image(&self, artifacts: &Path) -> Result<GuestImage, ArtifactError> {
        Ok(GuestImage {
            kernel: self.kernel.checked_file(artifacts)?,
            initramfs: self.initramfs.checked_file(artifacts)?,
            rootfs: self.rootfs.checked_file(artifacts)?,
            digest: self.digest(),
        })
    }

    /// The file of the image's configuration, beside the root file system.
    pub fn config_file(&self, artifacts: &Path) -> PathBuf {
        artifacts.join(&self.rootfs.dir).join(IMAGE_FILE)
    }

    pub fn config(&self, artifacts: &Path) -> Result<ImageConfig, ArtifactError> {
        let path = self.config_file(artifacts);
        let text = std::fs::read(&path).map_err(FileError::of("reading the image configuration", &path))?;
        serde_json::from_slice(&text).map_err(|source| ArtifactError::Unreadable { path, source })
    }

    /// Writes the entry of the image, durably, unless it is there.
    pub fn register(&self, artifacts: &Path) -> Result<(), ArtifactError> {
        let folder = artifacts.join(FOLDER);
        let digest = self.digest();
        let path = folder.join(format!("{digest}.json"));
        if read(&path, &digest).is_ok_and(|known| known.as_ref() == Some(self)) {
            return Ok(());
        }
        // With the process id, because the server registers imported images without the builder's lock.
        let temporary = folder.join(format!(".{digest}.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| ArtifactError::Unreadable { path: path.clone(), source })?;
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&folder)?;
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(&folder)?.sync_all()
        };
        Ok(write().map_err(FileError::of("writing", &path))?)
    }
}

/// Registers the images of all templates.
pub(super) fn register_all(manifest: &Manifest, artifacts: &Path) -> Result<(), ArtifactError> {
    let parts = manifest.templates.keys().filter_map(|template| ImageParts::of_template(manifest, template));
    parts.into_iter().try_for_each(|parts| parts.register(artifacts))
}

impl Artifacts {
    /// The guest image with this digest and its configuration, even if no template has it any more.
    ///
    /// # Errors
    /// [`ArtifactError::NoImage`] if it is not registered here; another error names the file of it that is missing.
    pub fn image_of(&self, digest: &ImageDigest) -> Result<(GuestImage, ImageConfig), ArtifactError> {
        let parts = self.parts_of(digest)?;
        Ok((parts.image(&self.dir)?, parts.config(&self.dir)?))
    }

    pub(super) fn parts_of(&self, digest: &ImageDigest) -> Result<ImageParts, ArtifactError> {
        let in_use = self.templates().filter_map(|template| ImageParts::of_template(&self.manifest, template));
        if let Some(parts) = in_use.into_iter().find(|parts| parts.digest() == *digest) {
            return Ok(parts);
        }
        let missing = || ArtifactError::NoImage { digest: digest.clone(), dir: self.dir.clone() };
        read(&self.dir.join(FOLDER).join(format!("{digest}.json")), digest)?.ok_or_else(missing)
    }
}

/// Reads the entry of an image; none if there is none.
fn read(path: &Path, digest: &ImageDigest) -> Result<Option<ImageParts>, ArtifactError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(FileError::of("reading", path)(e).into()),
    };
    let parts: ImageParts =
        serde_json::from_slice(&text).map_err(|source| ArtifactError::Unreadable { path: path.to_owned(), source })?;
    // An entry whose artifacts do not have the digest of its name was damaged or forged.
    let found = parts.digest();
    if found != *digest {
        let (found, expected) = (found.to_string(), digest.to_string());
        return Err(ArtifactError::Damaged { path: path.to_owned(), found, expected });
    }
    Ok(Some(parts))
}
