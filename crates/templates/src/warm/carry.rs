//! Bases in archives, so that a host that has lost all of them, or never had them, can wake what is stored.
//!
//! The archive's id is the base's, and that is a digest of all its contents: what comes back is the very same base, or
//! is refused.

use super::base::{Base, Header};
use super::{WarmError, WarmSnapshots, folder};
use crate::carry::{self, CarryError};
use leapbox_storage::{Archive, ArchiveWriter, Sealed, SealedFolder, private_dir};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MEMORY: &str = "memory";
const STATE: &str = "state";
const DISK: &str = "disk";

/// What the archive of a base begins with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Carried {
    base: Header,
    memory_bytes: u64,
    state_bytes: u64,
    disk_bytes: u64,
}

impl WarmSnapshots {
    /// Writes a base into the archive of its id.
    pub async fn export_base(&self, base: &Arc<Base>, writer: ArchiveWriter) -> Result<Sealed, WarmError> {
        let (dir, held) = (self.dir.join(&base.id), Arc::clone(base));
        let packing = tokio::task::spawn_blocking(move || pack(&dir, &held, writer));
        let packed = packing.await.unwrap_or_else(|source| Err(CarryError::Interrupted { source }));
        packed.map_err(|source| WarmError::Carry { id: base.id.clone(), source: Box::new(source) })
    }

    /// The base of an archive: the one that is here already, or one made of it.
    pub async fn import_base(&self, archive: Archive) -> Result<Arc<Base>, WarmError> {
        let _turn = self.imports.lock().await;
        let id = archive.id().to_owned();
        if let Some(base) = self.by_id(&id).await? {
            return Ok(base);
        }
        let unfinished = self.dir.join(format!(".import-{id}"));
        folder::remove(&unfinished);
        private_dir(&unfinished).map_err(|source| WarmError::Folder { source })?;
        let (bases, from) = (self.dir.clone(), unfinished.clone());
        let unpacking = tokio::task::spawn_blocking(move || unpack(&archive, &from, &bases));
        match unpacking.await.unwrap_or_else(|source| Err(CarryError::Interrupted { source }.into())) {
            Ok(base) => {
                tracing::info!(id, shape = %base.snapshot.shape, "a warm snapshot came back from its archive");
                let base = Arc::new(base);
                self.shelf().put(Arc::clone(&base), true);
                Ok(base)
            }
            Err(reason) => {
                folder::remove(&unfinished);
                Err(reason.told(id))
            }
        }
    }
}

fn pack(dir: &Path, base: &Base, mut writer: ArchiveWriter) -> Result<Sealed, CarryError> {
    let damaged = |_| CarryError::Damaged { path: dir.to_path_buf() };
    let header: Header = SealedFolder::open(dir).and_then(|folder| folder.header()).map_err(damaged)?;
    let snapshot = &base.snapshot;
    let carried = Carried {
        memory_bytes: carry::pack(&mut writer, MEMORY, &snapshot.memory)?,
        state_bytes: carry::pack(&mut writer, STATE, &snapshot.state)?,
        disk_bytes: carry::pack(&mut writer, DISK, &snapshot.disk)?,
        base: header,
    };
    writer.seal(&carried).map_err(|source| CarryError::Seal { source })
}

fn unpack(archive: &Archive, unfinished: &Path, bases: &Path) -> Result<Base, Refused> {
    let carried: Carried = archive.header().map_err(|source| CarryError::Part { part: "header", source })?;
    let Carried { base: header, memory_bytes, state_bytes, disk_bytes } = carried;
    carry::unpack(archive, MEMORY, &path_in(unfinished, &header.memory)?, memory_bytes)?;
    carry::unpack(archive, STATE, &path_in(unfinished, &header.state)?, state_bytes)?;
    carry::unpack(archive, DISK, &path_in(unfinished, &header.disk)?, disk_bytes)?;
    let sealed = SealedFolder::seal(unfinished, &header, &header.files()).map_err(folder::Refused::from)?;
    let found = folder::id_of(&header, &sealed)?;
    if found != archive.id() {
        return Err(CarryError::Another { id: archive.id().to_owned(), found }.into());
    }
    // A folder that lies there was refused before, and could not be removed then.
    let place = bases.join(&found);
    folder::remove(&place);
    sealed.move_to(&place).map_err(folder::Refused::from)?;
    Ok(folder::read(&place)?)
}

/// A file of the base in its new folder. The name is what the archive says.
fn path_in(dir: &Path, name: &str) -> Result<PathBuf, CarryError> {
    if Path::new(name).file_name() == Some(OsStr::new(name)) {
        return Ok(dir.join(name));
    }
    Err(CarryError::Name { name: name.to_owned() })
}

/// Why what was in an archive did not become a base.
#[derive(Debug)]
enum Refused {
    Carry(Box<CarryError>),
    Seal(folder::Refused),
}

impl Refused {
    fn told(self, id: String) -> WarmError {
        match self {
            Refused::Carry(source) => WarmError::Carry { id, source },
            Refused::Seal(source) => WarmError::Seal { what: id, source: source.into() },
        }
    }
}

impl From<CarryError> for Refused {
    fn from(error: CarryError) -> Self {
        Refused::Carry(Box::new(error))
    }
}

impl From<folder::Refused> for Refused {
    fn from(error: folder::Refused) -> Self {
        Refused::Seal(error)
    }
}

#[cfg(test)]
mod tests;
