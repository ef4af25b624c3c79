//! The format of a checkpoint: which parts its archive has, and which claims of its header are checked before a machine
//! is made of it. `storage` encrypts and authenticates the archive; this module knows what the parts mean.
//!
//! ```text
//! header   organisation, template, shape, base, image, compatibility key, driver
//! memory   every page that differs from the base        (not of a stopped sandbox)
//! state    devices and CPUs                             (not of a stopped sandbox)
//! disk     all data of the disk
//! ```

use super::CheckpointPin;
use crate::clock::now_ms;
use crate::error::CheckpointError;
use leapbox_db::{Live, Origin, Spec, Stored};
use leapbox_errors::FileError;
use leapbox_ids::{ArchiveId, BaseId, CheckpointId, ImageDigest, OrganisationId, SandboxId, TemplateId};
use leapbox_storage::{Archive, ArchiveError, ArchiveStore, Runs, Stamp, disk_runs};
use leapbox_vmm::{DiffSnapshot, Shape};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const MEMORY: &str = "memory";
const STATE: &str = "state";
const DISK: &str = "disk";

/// The archive's header: of which sandbox the checkpoint is, and what it can be restored with. A stored format.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    sandbox: SandboxId,
    organisation: OrganisationId,
    template: TemplateId,
    shape: Shape,
    /// The base that the memory is a difference to; `None` if there is no memory.
    pub base: Option<BaseId>,
    pub image: ImageDigest,
    /// The VMM's key of everything that the memory's restore depends on; `None` if there is no memory.
    pub compatibility_key: Option<String>,
    driver: String,
    taken_at_ms: i64,
}

impl Header {
    fn of_disk(spec: &Spec, image: &ImageDigest, driver: String) -> Self {
        Self {
            sandbox: spec.id.clone(),
            organisation: spec.organisation.clone(),
            template: spec.template.clone(),
            shape: spec.shape(),
            base: None,
            image: image.clone(),
            compatibility_key: None,
            driver,
            taken_at_ms: now_ms(),
        }
    }

    /// The header of a suspended machine's memory, devices and disk.
    pub fn of_memory(spec: &Spec, origin: &Origin, compatibility_key: String, driver: String) -> Self {
        Self {
            base: Some(origin.base.clone()),
            compatibility_key: Some(compatibility_key),
            ..Self::of_disk(spec, &origin.image, driver)
        }
    }

    /// [`CheckpointError::Mismatch`] unless this is the checkpoint that the sandbox's row describes.
    fn check(&self, spec: &Spec, stored: &Stored) -> Result<(), CheckpointError> {
        // The store proves that the archive is the one of this id and unchanged, not that the row names the right id. A
        // wrong row (a database that was damaged, or put together by hand) must not boot a stranger's memory.
        let differs = |what| Err(CheckpointError::Mismatch { what });
        if self.organisation != spec.organisation {
            return differs("organisation");
        }
        if self.template != spec.template {
            return differs("template");
        }
        if self.shape != spec.shape() {
            return differs("size");
        }
        if self.image != *stored.image() {
            return differs("image");
        }
        if self.base.as_ref() != stored.base() {
            return differs("base");
        }
        Ok(())
    }
}

/// Stores the disk of a machine that has ended.
pub(super) async fn store_disk(
    archives: &ArchiveStore,
    spec: &Spec,
    live: &Live,
    disk: &Path,
    checkpoint: &CheckpointId,
    stamp: Stamp,
) -> Result<CheckpointPin, CheckpointError> {
    let header = Header::of_disk(spec, &live.origin.image, live.vm.machine.driver.clone());
    write(archives, checkpoint, stamp, header, None, disk.to_path_buf()).await
}

/// Writes an archive, which is sealed, synced and pinned when this returns. `changes` are the memory and device state
/// of a machine that must stay suspended until then.
pub(super) async fn write(
    archives: &ArchiveStore,
    checkpoint: &CheckpointId,
    stamp: Stamp,
    header: Header,
    changes: Option<DiffSnapshot>,
    disk: PathBuf,
) -> Result<CheckpointPin, CheckpointError> {
    let mut writer = archives.begin(&checkpoint.into(), Some(stamp)).map_err(CheckpointError::of_writing)?;
    // Dropping this future (at the store's deadline) does not stop a blocking task. The machine is resumed then, and
    // what is read of its memory after that is not of one moment, so the task must end without sealing it.
    let cancel_on_drop = CancelOnDrop::default();
    let cancelled = Arc::clone(&cancel_on_drop.0);
    let writing = tokio::task::spawn_blocking(move || {
        // Memory before the disk: a VMM that dies meanwhile takes its memory with it, and that is noticed sooner so.
        if let Some(DiffSnapshot { memory, state }) = changes {
            writer.bytes(STATE, &state).map_err(|error| CheckpointError::of_writing(error.into()))?;
            writer
                .runs(MEMORY, until_cancelled(&cancelled, memory))
                .map_err(|error| CheckpointError::of_writing(error.into()))?;
        }
        let opened = File::open(&disk).map_err(FileError::of("opening", &disk));
        let opened = opened.map_err(|error| CheckpointError::Disk(error.into()))?;
        writer
            .runs(DISK, until_cancelled(&cancelled, disk_runs(opened)))
            .map_err(|error| CheckpointError::of_writing(error.into()))?;
        if cancelled.load(Ordering::Relaxed) {
            // A writer that is dropped unsealed removes what it has written. Nobody waits for this error.
            return Err(CheckpointError::TimedOut { seconds: 0 });
        }
        let sealed = writer.seal(&header).map_err(CheckpointError::of_writing)?;
        tracing::debug!(plain = sealed.plain_bytes, stored = sealed.stored_bytes, "stored a checkpoint");
        Ok(CheckpointPin::new(sealed.pin))
    });
    writing.await.map_err(CheckpointError::Interrupted)?
}

/// Sets its flag when the future that owns it is dropped.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The runs, ending with an error once `cancelled` is set.
fn until_cancelled(cancelled: &Arc<AtomicBool>, runs: Runs) -> Runs {
    let cancelled = Arc::clone(cancelled);
    Box::new(runs.map(move |run| {
        if cancelled.load(Ordering::Relaxed) { Err(std::io::ErrorKind::Interrupted.into()) } else { run }
    }))
}

/// The parts of a checkpoint. The runs are read and authenticated while they are consumed.
pub(super) struct Contents {
    /// `None` of a stopped sandbox.
    pub changes: Option<DiffSnapshot>,
    pub disk: Runs,
}

/// The header of `archive`, checked against the row of the sandbox.
pub(super) fn header_of(archive: &Archive, spec: &Spec, stored: &Stored) -> Result<Header, CheckpointError> {
    let header: Header = archive.header().map_err(damaged)?;
    header.check(spec, stored)?;
    Ok(header)
}

/// The base and image that a checkpoint's restore needs; nothing if the archive is no checkpoint.
pub(super) fn needs(archive: &Archive) -> Vec<ArchiveId> {
    let Ok(header) = archive.header::<Header>() else { return Vec::new() };
    header.base.iter().map(ArchiveId::from).chain([ArchiveId::from(&header.image)]).collect()
}

/// Opens the parts of an archive.
pub(super) async fn read(archive: Archive) -> Result<Contents, CheckpointError> {
    let reading = tokio::task::spawn_blocking(move || {
        let changes = match archive.has(MEMORY) {
            true => Some(DiffSnapshot {
                memory: archive.runs(MEMORY).map_err(damaged)?,
                state: archive.bytes(STATE).map_err(damaged)?,
            }),
            false => None,
        };
        Ok(Contents { changes, disk: archive.runs(DISK).map_err(damaged)? })
    });
    reading.await.map_err(CheckpointError::Interrupted)?
}

fn damaged(error: ArchiveError) -> CheckpointError {
    CheckpointError::of_store(error.into())
}
