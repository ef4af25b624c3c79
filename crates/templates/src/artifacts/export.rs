//! Guest images are exported to archives and imported from them: whatever is stored needs its image, so that a bucket
//! without the image would be of no use to another host.
//!
//! The archive's id is `image-<digest>`. What comes back is compared with that digest before it is kept.

use super::images::ImageParts;
use super::manifest::StoredArtifact;
use super::{Artifacts, IMAGE_FILE, INITRAMFS_FILE, KERNEL_FILE, ROOTFS_FILE};
use crate::error::ArtifactError;
use leapbox_guest_protocol::ImageConfig;
use leapbox_ids::{ArchiveId, ImageDigest};
use leapbox_storage::{Archive, ArchiveWriter, PackError, Sealed, digest, make_read_only, pack_file, unpack_file};
use leapbox_vmm::GuestImage;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

const FOLDER: &str = "imported";
const KERNEL: &str = "kernel";
const INITRAMFS: &str = "initramfs";
const ROOTFS: &str = "rootfs";
const CONFIG: &str = "config";

/// What the archive of an image begins with: the files' lengths in bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kernel_bytes: u64,
    initramfs_bytes: u64,
    rootfs_bytes: u64,
}

impl Artifacts {
    /// Writes the image with this digest into its archive.
    pub async fn export_image(&self, digest: &ImageDigest, writer: ArchiveWriter) -> Result<Sealed, ArtifactError> {
        let (parts, dir) = (self.parts_of(digest)?, self.dir.clone());
        let packing = tokio::task::spawn_blocking(move || pack(&parts, &dir, writer));
        let packed = packing.await.unwrap_or_else(|source| Err(PackError::Interrupted { source }.into()));
        packed.map_err(|reason| reason.of_image(digest))
    }

    /// The image of an archive: the one that is here already, or one made of it.
    pub async fn import_image(&self, archive: Archive) -> Result<(GuestImage, ImageConfig), ArtifactError> {
        let ArchiveId::Image(digest) = archive.id().clone() else {
            return Err(ArtifactError::NotAnImage { archive: archive.id().clone() });
        };
        if let Ok(here) = self.image_of(&digest) {
            return Ok(here);
        }
        let (dir, wanted) = (self.dir.clone(), digest.clone());
        let unpacking = tokio::task::spawn_blocking(move || unpack(&archive, &wanted, &dir));
        let unpacked = unpacking.await.unwrap_or_else(|source| Err(PackError::Interrupted { source }.into()));
        let parts = unpacked.map_err(|reason| reason.of_image(&digest))?;
        tracing::info!(digest = digest.as_str(), "a guest image came back from its archive");
        Ok((parts.image(&self.dir)?, parts.config(&self.dir)?))
    }
}

fn pack(parts: &ImageParts, artifacts: &Path, mut writer: ArchiveWriter) -> Result<Sealed, Failed> {
    // Damaged parts would be found when they come back, when it is too late.
    parts.files().into_iter().try_for_each(|stored| stored.verify(artifacts))?;
    let config = parts.config_file(artifacts);
    let text = std::fs::read(&config).map_err(PackError::file("reading", &config))?;
    writer.bytes(CONFIG, &text).map_err(|source| PackError::Part { part: CONFIG, source })?;
    let header = Header {
        kernel_bytes: pack_file(&mut writer, KERNEL, &parts.kernel.path(artifacts))?,
        initramfs_bytes: pack_file(&mut writer, INITRAMFS, &parts.initramfs.path(artifacts))?,
        rootfs_bytes: pack_file(&mut writer, ROOTFS, &parts.rootfs.path(artifacts))?,
    };
    Ok(writer.seal(&header).map_err(|source| PackError::Seal { source })?)
}

fn unpack(archive: &Archive, digest: &ImageDigest, artifacts: &Path) -> Result<ImageParts, Failed> {
    let folder = artifacts.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(PackError::file("making", &folder))?;
    // Dropped in whatever way this ends, it is removed with what is in it.
    let unfinished = Unfinished::make(folder.join(format!(".{digest}.{}", std::process::id())))?;
    let header: Header = archive.header().map_err(|source| PackError::Part { part: "header", source })?;
    let place = Path::new(FOLDER).join(digest.as_str());
    let file = |part, name: &str, bytes| -> Result<StoredArtifact, PackError> {
        let path = unfinished.path.join(name);
        unpack_file(archive, part, &path, bytes)?;
        let sha256 = digest::of_file(&path).map(hex::encode).map_err(PackError::file("reading", &path))?;
        Ok(StoredArtifact {
            dir: place.clone(),
            file: name.to_owned(),
            sha256,
            bytes,
            inputs: archive.id().to_string(),
        })
    };
    let parts = ImageParts {
        kernel: file(KERNEL, KERNEL_FILE, header.kernel_bytes)?,
        initramfs: file(INITRAMFS, INITRAMFS_FILE, header.initramfs_bytes)?,
        rootfs: file(ROOTFS, ROOTFS_FILE, header.rootfs_bytes)?,
    };
    let found = ArchiveId::from(&parts.digest());
    if found != *archive.id() {
        return Err(PackError::Another { id: archive.id().clone(), found }.into());
    }
    let config = unfinished.path.join(IMAGE_FILE);
    let text = archive.bytes(CONFIG).map_err(|source| PackError::Part { part: CONFIG, source })?;
    std::fs::write(&config, text).map_err(PackError::file("writing", &config))?;
    make_read_only(&config)?;
    publish(&unfinished.path, &artifacts.join(&place))?;
    parts.remember(artifacts)?;
    Ok(parts)
}

/// Moves a finished folder to its place, durably. What lies there is damaged: a sound one would have been used.
fn publish(built: &Path, place: &Path) -> Result<(), PackError> {
    let sync =
        |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all()).map_err(PackError::file("writing to disk", dir));
    sync(built)?;
    match std::fs::remove_dir_all(place) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(PackError::file("removing", place)(e)),
        _ => {}
    }
    std::fs::rename(built, place).map_err(PackError::file("moving into place", place))?;
    sync(place.parent().unwrap_or(place))
}

/// A folder that goes unless it has been moved away.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn make(path: PathBuf) -> Result<Self, PackError> {
        // A former process with this id may have been killed.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).map_err(PackError::file("making", &path))?;
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
    Pack(Box<PackError>),
    Artifact(ArtifactError),
}

impl Failed {
    fn of_image(self, digest: &ImageDigest) -> ArtifactError {
        match self {
            Failed::Pack(source) => ArtifactError::Archive { digest: digest.clone(), source },
            Failed::Artifact(error) => error,
        }
    }
}

impl From<PackError> for Failed {
    fn from(error: PackError) -> Self {
        Failed::Pack(Box::new(error))
    }
}

impl From<ArtifactError> for Failed {
    fn from(error: ArtifactError) -> Self {
        Failed::Artifact(error)
    }
}

#[cfg(test)]
mod tests;
