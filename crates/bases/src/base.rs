//! What a base is, and how it is named.

use leapbox_storage::{SealedFile, digest};
use leapbox_vmm::{Shape, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What every base's id begins with.
const PREFIX: &str = "base-";
/// Characters of the digest in an id.
const DIGEST: usize = 40;

/// How far the guest of a base had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// Disks mounted, agent ready and warmed: what creates start from.
    Ready,
    /// No disk mounted, the agent answers: what a stopped sandbox starts from, with its own disk.
    Bare,
}

/// A warm snapshot that machines start from. Whoever holds it keeps it from being removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `base-` and a digest of all its contents: another one, taken of the same, has another id.
    pub id: String,
    /// How far its guest had come.
    pub kind: BaseKind,
    /// Digest of the guest image it was booted from; `templates` finds it by that.
    pub image: String,
    /// When it was taken, in milliseconds since 1970.
    pub taken_at_ms: u64,
    /// Its memory, device state and disk.
    pub snapshot: Arc<Snapshot>,
}

/// What the manifest of a base begins with. Files by their names: the data folder may be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub kind: BaseKind,
    pub image: String,
    pub taken_at_ms: u64,
    pub shape: Shape,
    pub compatibility_key: String,
    pub memory: String,
    pub state: String,
    pub disk: String,
}

impl Header {
    /// The names of its files.
    pub fn files(&self) -> [&str; 3] {
        [&self.memory, &self.state, &self.disk]
    }

    /// The id of a base with this header and these files. Both have one encoding only: structures in the order of
    /// their fields, maps in the order of their keys.
    pub fn id_with(&self, files: &BTreeMap<String, SealedFile>) -> Result<String, serde_json::Error> {
        let digest = digest::of_parts(&[&serde_json::to_vec(self)?, &serde_json::to_vec(files)?]);
        Ok(format!("{PREFIX}{}", &digest[..DIGEST]))
    }
}
