//! A machine as an archive: what is written of it, and what is checked before it is believed.
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
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, OrganisationId, SandboxId, TemplateId};
use leapbox_storage::{Archive, ArchiveError, ArchiveStore, Runs, disk_runs};
use leapbox_vmm::{DiffSnapshot, Shape};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const MEMORY: &str = "memory";
const STATE: &str = "state";
const DISK: &str = "disk";

/// What a checkpoint is of, and what it fits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    sandbox: SandboxId,
    organisation: OrganisationId,
    template: TemplateId,
    shape: Shape,
    /// Whose difference the memory is; none if there is no memory.
    pub base: Option<BaseId>,
    pub image: ImageDigest,
    /// What VMM, kernel and CPU have to be; none if there is no memory.
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

    /// Of a suspended machine, memory and disk.
    pub fn of_memory(spec: &Spec, origin: &Origin, compatibility_key: String, driver: String) -> Self {
        Self {
            base: Some(origin.base.clone()),
            compatibility_key: Some(compatibility_key),
            ..Self::of_disk(spec, &origin.image, driver)
        }
    }

    /// An error unless this is what the database says is stored.
    fn check(&self, spec: &Spec, stored: &Stored) -> Result<(), CheckpointError> {
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

/// Stores a disk alone.
pub(super) async fn store_disk(
    archives: &ArchiveStore,
    spec: &Spec,
    live: &Live,
    disk: &Path,
    checkpoint: &CheckpointId,
) -> Result<CheckpointPin, CheckpointError> {
    let header = Header::of_disk(spec, &live.origin.image, live.vm.machine.driver.clone());
    write(archives, checkpoint, header, None, disk.to_path_buf()).await
}

/// Writes it, sealed and pinned when this returns. `changes` are the memory and state of a machine that stays suspended
/// meanwhile.
pub(super) async fn write(
    archives: &ArchiveStore,
    checkpoint: &CheckpointId,
    header: Header,
    changes: Option<DiffSnapshot>,
    disk: PathBuf,
) -> Result<CheckpointPin, CheckpointError> {
    let mut writer = archives.begin(&checkpoint.into()).map_err(CheckpointError::of_writing)?;
    // Given up when this future is dropped: the machine goes on then, and what is read of it is nonsense.
    let given_up = GivenUp::default();
    let flag = Arc::clone(&given_up.0);
    let writing = tokio::task::spawn_blocking(move || {
        if let Some(DiffSnapshot { memory, state }) = changes {
            writer.bytes(STATE, &state).map_err(|error| CheckpointError::of_writing(error.into()))?;
            writer.runs(MEMORY, until(&flag, memory)).map_err(|error| CheckpointError::of_writing(error.into()))?;
        }
        let opened = File::open(&disk).map_err(FileError::of("opening", &disk));
        let opened = opened.map_err(|error| CheckpointError::Disk(error.into()))?;
        writer
            .runs(DISK, until(&flag, disk_runs(opened)))
            .map_err(|error| CheckpointError::of_writing(error.into()))?;
        if flag.load(Ordering::Relaxed) {
            // Dropped unsealed, nothing of it stays; nobody hears this.
            return Err(CheckpointError::Late { seconds: 0 });
        }
        let sealed = writer.seal(&header).map_err(CheckpointError::of_writing)?;
        tracing::debug!(plain = sealed.plain_bytes, stored = sealed.stored_bytes, "stored a checkpoint");
        Ok(CheckpointPin::new(sealed.pin))
    });
    writing.await.map_err(CheckpointError::Interrupted)?
}

/// Set when nobody waits for what is being written any more.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The runs, until they are given up.
fn until(given_up: &Arc<AtomicBool>, runs: Runs) -> Runs {
    let given_up = Arc::clone(given_up);
    Box::new(runs.map(
        move |run| {
            if given_up.load(Ordering::Relaxed) { Err(std::io::ErrorKind::Interrupted.into()) } else { run }
        },
    ))
}

/// What there is to make a machine of, still to be read.
pub(super) struct Contents {
    /// None of a stopped sandbox.
    pub changes: Option<DiffSnapshot>,
    pub disk: Runs,
}

/// What `archive` is of; an error unless that is what is `stored` of the sandbox.
pub(super) fn header_of(archive: &Archive, spec: &Spec, stored: &Stored) -> Result<Header, CheckpointError> {
    let header: Header = archive.header().map_err(damaged)?;
    header.check(spec, stored)?;
    Ok(header)
}

/// Begins to read it.
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
