//! Guest images in archives: what is stored needs its image, and the bucket is to be complete.
//!
//! The archive's id is `image-<digest>`. What comes back is compared with that digest before it is kept.

use super::images::ImageParts;
use super::manifest::StoredArtifact;
use super::{Artifacts, IMAGE_FILE, INITRAMFS_FILE, KERNEL_FILE, ROOTFS_FILE};
use crate::carry::{self, CarryError, fail};
use crate::digest;
use crate::error::ArtifactError;
use leapbox_guest_protocol::ImageConfig;
use leapbox_storage::{Archive, ArchiveWriter, Sealed};
use leapbox_vmm::GuestImage;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What an image's archive is called, before the digest.
const PREFIX: &str = "image-";
const FOLDER: &str = "imported";
const KERNEL: &str = "kernel";
const INITRAMFS: &str = "initramfs";
const ROOTFS: &str = "rootfs";
const CONFIG: &str = "config";

/// What the archive of an image begins with: the files' lengths in bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Carried {
    kernel_bytes: u64,
    initramfs_bytes: u64,
    rootfs_bytes: u64,
}

impl Artifacts {
    /// The id of the archive of the image with this digest.
    pub fn archive_id(digest: &str) -> String {
        format!("{PREFIX}{digest}")
    }

    /// Writes the image with this digest into its archive.
    pub async fn export_image(&self, digest: &str, writer: ArchiveWriter) -> Result<Sealed, ArtifactError> {
        let (parts, dir) = (self.parts_of(digest)?, self.dir.clone());
        let packing = tokio::task::spawn_blocking(move || pack(&parts, &dir, writer));
        let packed = packing.await.unwrap_or_else(|source| Err(CarryError::Interrupted { source }.into()));
        packed.map_err(|reason| reason.told(digest))
    }

    /// The image of an archive: the one that is here already, or one made of it.
    pub async fn import_image(&self, archive: Archive) -> Result<(GuestImage, ImageConfig), ArtifactError> {
        let id = archive.id().to_owned();
        let Some(digest) = id.strip_prefix(PREFIX).map(str::to_owned) else {
            let source = Box::new(CarryError::Name { name: id.clone() });
            return Err(ArtifactError::Carry { digest: id, source });
        };
        if let Ok(here) = self.image_of(&digest) {
            return Ok(here);
        }
        let (dir, wanted) = (self.dir.clone(), digest.clone());
        let unpacking = tokio::task::spawn_blocking(move || unpack(&archive, &wanted, &dir));
        let unpacked = unpacking.await.unwrap_or_else(|source| Err(CarryError::Interrupted { source }.into()));
        let parts = unpacked.map_err(|reason| reason.told(&digest))?;
        tracing::info!(digest, "a guest image came back from its archive");
        Ok((parts.image(&self.dir)?, parts.config(&self.dir)?))
    }
}

fn pack(parts: &ImageParts, artifacts: &Path, mut writer: ArchiveWriter) -> Result<Sealed, Failed> {
    // Damaged parts would be found when they come back, when it is too late.
    parts.files().into_iter().try_for_each(|stored| stored.verify(artifacts))?;
    let config = parts.config_file(artifacts);
    let text = std::fs::read(&config).map_err(fail("reading", &config))?;
    writer.bytes(CONFIG, &text).map_err(|source| CarryError::Part { part: CONFIG, source })?;
    let carried = Carried {
        kernel_bytes: carry::pack(&mut writer, KERNEL, &parts.kernel.path(artifacts))?,
        initramfs_bytes: carry::pack(&mut writer, INITRAMFS, &parts.initramfs.path(artifacts))?,
        rootfs_bytes: carry::pack(&mut writer, ROOTFS, &parts.rootfs.path(artifacts))?,
    };
    Ok(writer.seal(&carried).map_err(|source| CarryError::Seal { source })?)
}

fn unpack(archive: &Archive, digest: &str, artifacts: &Path) -> Result<ImageParts, Failed> {
    let folder = artifacts.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(fail("making", &folder))?;
    // Dropped in whatever way this ends, it is removed with what is in it.
    let unfinished = Unfinished::make(folder.join(format!(".{digest}.{}", std::process::id())))?;
    let carried: Carried = archive.header().map_err(|source| CarryError::Part { part: "header", source })?;
    let place = Path::new(FOLDER).join(digest);
    let file = |part, name: &str, bytes| -> Result<StoredArtifact, CarryError> {
        let path = unfinished.path.join(name);
        carry::unpack(archive, part, &path, bytes)?;
        let sha256 = digest::of_file(&path).map_err(fail("reading", &path))?;
        Ok(StoredArtifact { dir: place.clone(), file: name.to_owned(), sha256, bytes, inputs: archive.id().to_owned() })
    };
    let parts = ImageParts {
        kernel: file(KERNEL, KERNEL_FILE, carried.kernel_bytes)?,
        initramfs: file(INITRAMFS, INITRAMFS_FILE, carried.initramfs_bytes)?,
        rootfs: file(ROOTFS, ROOTFS_FILE, carried.rootfs_bytes)?,
    };
    let found = Artifacts::archive_id(&parts.digest());
    if found != archive.id() {
        return Err(CarryError::Another { id: archive.id().to_owned(), found }.into());
    }
    let config = unfinished.path.join(IMAGE_FILE);
    let text = archive.bytes(CONFIG).map_err(|source| CarryError::Part { part: CONFIG, source })?;
    std::fs::write(&config, text).map_err(fail("writing", &config))?;
    carry::protect(&config)?;
    publish(&unfinished.path, &artifacts.join(&place))?;
    parts.remember(artifacts)?;
    Ok(parts)
}

/// Moves a finished folder to its place, durably. What lies there is damaged: a sound one would have been used.
fn publish(built: &Path, place: &Path) -> Result<(), CarryError> {
    let sync = |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail("writing to disk", dir));
    sync(built)?;
    match std::fs::remove_dir_all(place) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail("removing", place)(e)),
        _ => {}
    }
    std::fs::rename(built, place).map_err(fail("moving into place", place))?;
    sync(place.parent().unwrap_or(place))
}

/// A folder that goes unless it has been moved away.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn make(path: PathBuf) -> Result<Self, CarryError> {
        // A former process with this id may have been killed.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).map_err(fail("making", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Why an image did not get into its archive, or out of it.
enum Failed {
    Carry(Box<CarryError>),
    Artifact(ArtifactError),
}

impl Failed {
    fn told(self, digest: &str) -> ArtifactError {
        match self {
            Failed::Carry(source) => ArtifactError::Carry { digest: digest.to_owned(), source },
            Failed::Artifact(error) => error,
        }
    }
}

impl From<CarryError> for Failed {
    fn from(error: CarryError) -> Self {
        Failed::Carry(Box::new(error))
    }
}

impl From<ArtifactError> for Failed {
    fn from(error: ArtifactError) -> Self {
        Failed::Artifact(error)
    }
}

#[cfg(test)]
mod tests;
