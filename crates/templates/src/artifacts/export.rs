//! Exports guest images to archives and imports them from there. A checkpoint can be restored only with its image, so
//! the image must be in the bucket as well for a host that has lost its own.
//!
//! The archive's id is `image-<digest>`. An imported image is compared with that digest before it is kept.

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

/// The header of an image's archive: the lengths of the files in bytes, holes included.
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

    /// Imports the image of an archive, unless it is on this host already, and returns it with its configuration.
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
        tracing::info!(digest = digest.as_str(), "imported a guest image from its archive");
        Ok((parts.image(&self.dir)?, parts.config(&self.dir)?))
    }
}

fn pack(parts: &ImageParts, artifacts: &Path, mut writer: ArchiveWriter) -> Result<Sealed, TransferError> {
    // Damage that is exported would be found only by an import, when no sound copy is left.
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

fn unpack(archive: &Archive, digest: &ImageDigest, artifacts: &Path) -> Result<ImageParts, TransferError> {
    let folder = artifacts.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(PackError::file("creating", &folder))?;
    // Removed when it is dropped, in whatever way this ends.
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
    // The archive is authentic, but that only says that this installation has written it, and not that its contents are
    // those of this image.
    let found = ArchiveId::from(&parts.digest());
    if found != *archive.id() {
        return Err(PackError::Another { id: archive.id().clone(), found }.into());
    }
    let config = unfinished.path.join(IMAGE_FILE);
    let text = archive.bytes(CONFIG).map_err(|source| PackError::Part { part: CONFIG, source })?;
    std::fs::write(&config, text).map_err(PackError::file("writing", &config))?;
    make_read_only(&config)?;
    publish(&unfinished.path, &artifacts.join(&place))?;
    parts.register(artifacts)?;
    Ok(parts)
}

/// Moves a finished directory to its place, durably.
fn publish(built: &Path, place: &Path) -> Result<(), PackError> {
    let sync =
        |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all()).map_err(PackError::file("writing to disk", dir));
    sync(built)?;
    // If there is one, it lacks a file or is damaged: a sound one would have been used instead of importing another.
    match std::fs::remove_dir_all(place) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(PackError::file("removing", place)(e)),
        _ => {}
    }
    std::fs::rename(built, place).map_err(PackError::file("moving into place", place))?;
    sync(place.parent().unwrap_or(place))
}

/// A directory that is removed when this is dropped, unless it has been renamed.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn make(path: PathBuf) -> Result<Self, PackError> {
        // An earlier process with this id may have been killed and have left it.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).map_err(PackError::file("creating", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// An error of an export or import, before it gets the image's digest.
enum TransferError {
    Pack(Box<PackError>),
    Artifact(ArtifactError),
}

impl TransferError {
    fn of_image(self, digest: &ImageDigest) -> ArtifactError {
        match self {
            TransferError::Pack(source) => ArtifactError::Archive { digest: digest.clone(), source },
            TransferError::Artifact(error) => error,
        }
    }
}

impl From<PackError> for TransferError {
    fn from(error: PackError) -> Self {
        TransferError::Pack(Box::new(error))
    }
}

impl From<ArtifactError> for TransferError {
    fn from(error: ArtifactError) -> Self {
        TransferError::Artifact(error)
    }
}

#[cfg(test)]
mod tests;
