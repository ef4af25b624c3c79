//! A machine as an archive: what is written of it, and what is checked before it is believed.
//!
//! ```text
//! header   organisation, template, shape, base, image, compatibility key, driver
//! memory   every page that differs from the base        (not of a stopped sandbox)
//! state    devices and CPUs                             (not of a stopped sandbox)
//! disk     all data of the disk
//! ```

use super::Unnamed;
use super::launch::Disk;
use super::vm::Vm;
use crate::clock::now_ms;
use crate::create::shape_of;
use crate::error::CheckpointError;
use leapbox_db::SandboxRow;
use leapbox_ids::{ArchiveId, OrganisationId, SandboxId, TemplateId};
use leapbox_storage::{Archive, ArchiveError, ArchiveStore, ArchiveWriter, Runs, StorageError, StoreError, disk_runs};
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
    pub base: Option<String>,
    pub image: String,
    /// What VMM, kernel and CPU have to be; none if there is no memory.
    pub compatibility_key: Option<String>,
    driver: String,
    taken_at_ms: i64,
}

impl Header {
    fn of(row: &SandboxRow, driver: &str) -> Self {
        Self {
            sandbox: row.id.clone(),
            organisation: row.organisation.clone(),
            template: row.template.clone(),
            shape: shape_of(row),
            base: None,
            image: row.image.clone().unwrap_or_default(),
            compatibility_key: None,
            driver: driver.to_owned(),
            taken_at_ms: now_ms(),
        }
    }

    /// An error unless this is what the row says it is.
    fn check(&self, row: &SandboxRow) -> Result<(), CheckpointError> {
        let differs = |what| Err(CheckpointError::Mismatch { what });
        if self.organisation != row.organisation {
            return differs("organisation");
        }
        if self.template != row.template {
            return differs("template");
        }
        if self.shape != shape_of(row) {
            return differs("size");
        }
        if Some(&self.image) != row.image.as_ref() {
            return differs("image");
        }
        if self.base.is_some() && self.base != row.base {
            return differs("base");
        }
        Ok(())
    }
}

/// The id of a checkpoint's archive.
pub(super) fn archive_id(checkpoint: &str) -> Result<ArchiveId, StoreError> {
    checkpoint.parse().map_err(|_| ArchiveError::Name { name: checkpoint.to_owned() }.into())
}

/// Stores a suspended machine whole.
pub(super) async fn store(
    archives: &ArchiveStore,
    vm: &Vm,
    row: &SandboxRow,
    checkpoint: &str,
) -> Result<Unnamed, CheckpointError> {
    let base = vm.base.as_ref().ok_or(CheckpointError::Mismatch { what: "base (it is not there any more)" })?;
    let changes = vm.machine.snapshot_diff().await.map_err(CheckpointError::Vmm)?;
    let mut header = Header::of(row, &vm.machine.record().driver);
    (header.base, header.image) = (Some(base.id.to_string()), vm.image.clone());
    header.compatibility_key = Some(base.snapshot.compatibility_key.clone());
    let writer = archive_id(checkpoint).and_then(|id| archives.begin(&id)).map_err(CheckpointError::of_writing)?;
    let disk = vm.disk.clone();
    write(writer, header, Some(changes), disk).await
}

/// Stores a disk alone.
pub(super) async fn store_disk(
    archives: &ArchiveStore,
    driver: &str,
    row: &SandboxRow,
    disk: &Path,
    checkpoint: &str,
) -> Result<Unnamed, CheckpointError> {
    let writer = archive_id(checkpoint).and_then(|id| archives.begin(&id)).map_err(CheckpointError::of_writing)?;
    write(writer, Header::of(row, driver), None, disk.to_path_buf()).await
}

async fn write(
    mut writer: ArchiveWriter,
    header: Header,
    changes: Option<DiffSnapshot>,
    disk: PathBuf,
) -> Result<Unnamed, CheckpointError> {
    // Given up when this future is dropped: the machine goes on then, and what is read of it is nonsense.
    let given_up = GivenUp::default();
    let flag = Arc::clone(&given_up.0);
    let writing = tokio::task::spawn_blocking(move || {
        if let Some(DiffSnapshot { memory, state }) = changes {
            writer.bytes(STATE, &state).map_err(|error| CheckpointError::of_writing(error.into()))?;
            writer.runs(MEMORY, until(&flag, memory)).map_err(|error| CheckpointError::of_writing(error.into()))?;
        }
        let opened = File::open(&disk).map_err(|source| StorageError::File { step: "opening", path: disk, source });
        writer
            .runs(DISK, until(&flag, disk_runs(opened.map_err(CheckpointError::Disk)?)))
            .map_err(|error| CheckpointError::of_writing(error.into()))?;
        if flag.load(Ordering::Relaxed) {
            // Dropped unsealed, nothing of it stays; nobody hears this.
            return Err(CheckpointError::Late { seconds: 0 });
        }
        let sealed = writer.seal(&header).map_err(CheckpointError::of_writing)?;
        tracing::debug!(plain = sealed.plain_bytes, stored = sealed.stored_bytes, "stored a checkpoint");
        Ok(Unnamed(Box::new(sealed.pin)))
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
    pub disk: Disk,
}

/// What `archive` is of; an error unless that is `row`.
pub(super) fn header_of(archive: &Archive, row: &SandboxRow) -> Result<Header, CheckpointError> {
    let header: Header = archive.header().map_err(damaged)?;
    header.check(row)?;
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
        Ok(Contents { changes, disk: Disk::Stored(archive.runs(DISK).map_err(damaged)?) })
    });
    reading.await.map_err(CheckpointError::Interrupted)?
}

fn damaged(error: ArchiveError) -> CheckpointError {
    CheckpointError::of_store(error.into())
}
