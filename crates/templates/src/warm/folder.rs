//! A warm snapshot on disk: a sealed folder whose header says what it fits.
//!
//! ```text
//! seal ─► warm/<key>/ ┄┄► outdated? (at start: manifest)  ┄┄► find (at first use: manifest, key, all data)
//!                           └── refused, logged, removed ◄──────┘
//! ```
//!
//! What is damaged or was made for something else is never booted: it is removed, and the shape is taken anew.

use leapbox_storage::{SealError, SealedFolder};
use leapbox_vmm::{Shape, Snapshot, VmmError};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

/// Characters of a compatibility key that name a folder.
const NAME: usize = 32;

/// What the manifest begins with. Files by their names: the data folder may be moved.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    shape: Shape,
    compatibility_key: String,
    memory: String,
    state: String,
    disk: String,
}

/// Why a stored snapshot is not used.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Damaged(#[from] SealError),
    #[error(transparent)]
    Foreign(#[from] VmmError),
    #[error("the snapshot does not fit: it was made for {found}, and lies in the folder of {folder}")]
    Misplaced { found: String, folder: String },
}

/// The name of the folder of the snapshot with this key.
pub(super) fn name_of(key: &str) -> &str {
    key.get(..NAME).unwrap_or(key)
}

/// Seals a snapshot that was taken in `unfinished` and moves it to `dir`. Blocking.
pub(super) fn seal(snapshot: &Snapshot, unfinished: &Path, dir: &Path) -> Result<Snapshot, SealError> {
    // A file that lies elsewhere keeps its path here, which is not a name that can be sealed.
    let name = |path: &Path| path.strip_prefix(unfinished).unwrap_or(path).to_string_lossy().into_owned();
    let header = Header {
        shape: snapshot.shape,
        compatibility_key: snapshot.compatibility_key.clone(),
        memory: name(&snapshot.memory),
        state: name(&snapshot.state),
        disk: name(&snapshot.disk),
    };
    let folder = SealedFolder::seal(unfinished, &header, &[&header.memory, &header.state, &header.disk])?;
    snapshot_in(&folder.move_to(dir)?)
}

/// The snapshot in `dir`, if it was made for `key` and is as it was written. Everything else that may lie there is
/// removed. Reads all of its data. Blocking.
pub(super) fn find(dir: &Path, key: &str) -> Option<Snapshot> {
    if !is_there(dir) {
        return None;
    }
    let started = Instant::now();
    let check = || -> Result<Snapshot, Refused> {
        let folder = SealedFolder::open(dir)?;
        let snapshot = snapshot_in(&folder)?;
        snapshot.check_fits(key)?;
        folder.verify()?;
        Ok(snapshot)
    };
    let snapshot = check().map_err(|reason| refuse(dir, &reason)).ok()?;
    let elapsed_ms = started.elapsed().as_millis() as u64;
    tracing::info!(shape = %snapshot.shape, elapsed_ms, "the stored warm snapshot is sound");
    Some(snapshot)
}

/// Whether `dir` holds what `fits`, going by its manifest alone. If not, it is removed.
pub(super) fn keep_if(dir: &Path, fits: impl FnOnce(&Snapshot) -> bool) -> bool {
    match read(dir) {
        Ok(snapshot) if fits(&snapshot) => return true,
        Ok(snapshot) => {
            let (shape, key) = (snapshot.shape, snapshot.compatibility_key);
            tracing::info!(%shape, key, "removing a warm snapshot made for another kernel, image, VMM or CPU");
            remove(dir);
        }
        Err(reason) => refuse(dir, &reason),
    }
    false
}

/// What the manifest says, its data unread.
pub(super) fn stored(dir: &Path) -> Option<Snapshot> {
    read(dir).ok()
}

/// Removes a folder, if it is there.
pub(super) fn remove(dir: &Path) {
    // Anything may lie where a folder should.
    let removed =
        if dir.is_symlink() || dir.is_file() { std::fs::remove_file(dir) } else { std::fs::remove_dir_all(dir) };
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "an outdated snapshot could not be removed");
    }
}

fn read(dir: &Path) -> Result<Snapshot, Refused> {
    let snapshot = snapshot_in(&SealedFolder::open(dir)?)?;
    let folder = dir.file_name().unwrap_or_default().to_string_lossy();
    if name_of(&snapshot.compatibility_key) != folder {
        return Err(Refused::Misplaced { found: snapshot.compatibility_key, folder: folder.into_owned() });
    }
    Ok(snapshot)
}

fn snapshot_in(folder: &SealedFolder) -> Result<Snapshot, SealError> {
    let header: Header = folder.header()?;
    Ok(Snapshot {
        shape: header.shape,
        memory: folder.path(&header.memory)?,
        state: folder.path(&header.state)?,
        disk: folder.path(&header.disk)?,
        compatibility_key: header.compatibility_key,
    })
}

fn refuse(dir: &Path, reason: &Refused) {
    let causes = std::iter::successors(Some(reason as &dyn std::error::Error), |error| error.source());
    let reason = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    tracing::warn!(
        dir = %dir.display(),
        reason,
        "refused a stored warm snapshot: it is removed, and taken anew when it is needed"
    );
    remove(dir);
}

fn is_there(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const KEY: &str = "0123456789abcdef0123456789abcdef-and-the-rest-of-it";

    fn taken(unfinished: &Path) -> Snapshot {
        std::fs::create_dir(unfinished).expect("made");
        let made = |name: &str| {
            std::fs::write(unfinished.join(name), format!("the {name}")).expect("written");
            unfinished.join(name)
        };
        Snapshot {
            shape: Shape { vcpus: 1, memory_mib: 512 },
            memory: made("memory"),
            state: made("state"),
            disk: made("disk"),
            compatibility_key: KEY.to_owned(),
        }
    }

    fn kept() -> (tempfile::TempDir, PathBuf, Snapshot) {
        let root = tempfile::tempdir().expect("a folder");
        let (unfinished, dir) = (root.path().join(".unfinished"), root.path().join(name_of(KEY)));
        let snapshot = seal(&taken(&unfinished), &unfinished, &dir).expect("sealed");
        (root, dir, snapshot)
    }

    #[test]
    fn a_sound_snapshot_is_found_again_under_its_final_paths() {
        let (_root, dir, snapshot) = kept();
        assert_eq!(snapshot.memory, dir.join("memory"));
        assert!(keep_if(&dir, |stored| *stored == snapshot));
        assert_eq!(find(&dir, KEY), Some(snapshot));
    }

    #[test]
    fn a_damaged_snapshot_is_removed_and_not_found() {
        for name in ["memory", "state", "disk", "manifest.json"] {
            let (_root, dir, _) = kept();
            let mut bytes = std::fs::read(dir.join(name)).expect("read");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(dir.join(name), bytes).expect("written");
            assert_eq!(find(&dir, KEY), None, "{name}");
            assert!(!dir.exists(), "{name}");
        }
    }

    #[test]
    fn a_snapshot_for_another_key_is_removed_even_in_the_right_folder() {
        let (_root, dir, _) = kept();
        assert_eq!(find(&dir, "0123456789abcdef0123456789abcdef-and-something-else"), None);
        assert!(!dir.exists());
    }

    #[test]
    fn a_snapshot_in_anothers_folder_is_not_even_kept_at_start() {
        let (root, dir, _) = kept();
        let other = root.path().join("fedcba9876543210fedcba9876543210");
        std::fs::rename(&dir, &other).expect("moved");
        let misplaced = read(&other).expect_err("misplaced").to_string();
        assert!(misplaced.contains(KEY) && misplaced.contains("fedcba"), "{misplaced}");
        assert!(!keep_if(&other, |_| true));
        assert!(!other.exists());
    }

    #[test]
    fn what_fits_nothing_in_use_is_removed() {
        let (_root, dir, _) = kept();
        assert!(!keep_if(&dir, |_| false));
        assert!(!dir.exists());
    }

    #[test]
    fn a_file_or_a_link_where_a_snapshot_should_be_is_removed_and_its_target_is_not() {
        let (root, dir, _) = kept();
        let elsewhere = root.path().join("elsewhere");
        std::fs::rename(&dir, &elsewhere).expect("moved");
        std::os::unix::fs::symlink(root.path().join("nothing"), &dir).expect("linked");
        assert_eq!(find(&dir, KEY), None);
        std::fs::write(&dir, "a file").expect("written");
        assert_eq!(find(&dir, KEY), None);
        assert!(!is_there(&dir) && elsewhere.join("memory").exists());
    }
}
