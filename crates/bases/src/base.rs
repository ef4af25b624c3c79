//! The type of a base, its stored header, and how its id is computed.

use leapbox_ids::{BaseId, ImageDigest};
use leapbox_storage::{SealedFile, digest};
use leapbox_vmm::{Shape, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The point of the boot at which a base was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// Its disks are mounted and the agent is ready and warmed up. Creates start from it.
    Ready,
    /// The agent answers and no disk is mounted. A stopped sandbox starts from it with its own disk, because a kernel
    /// that has mounted one disk does not survive another one in its place.
    // The name in manifests that earlier versions of Leapbox have written. A base's id is computed from it as well.
    #[serde(rename = "bare")]
    Diskless,
}

/// A base: a snapshot, taken after boot, that machines start from. Holding it keeps it from being removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Computed from all its contents: another base of the same image has another id.
    pub id: BaseId,
    pub kind: BaseKind,
    /// The guest image it was booted from.
    pub image: ImageDigest,
    /// When it was taken, in Unix milliseconds.
    pub taken_at_ms: u64,
    pub snapshot: Arc<Snapshot>,
}

/// The header of a base's manifest, a stored format. Files are named relative to its directory, because the data
/// directory may be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub kind: BaseKind,
    pub image: ImageDigest,
    pub taken_at_ms: u64,
    pub shape: Shape,
    pub compatibility_key: String,
    pub memory: String,
    pub state: String,
    pub disk: String,
}

impl Header {
    pub fn files(&self) -> [&str; 3] {
        [&self.memory, &self.state, &self.disk]
    }

    /// The id of a base with this header and these files.
    pub fn id_with(&self, files: &BTreeMap<String, SealedFile>) -> Result<BaseId, serde_json::Error> {
        // Both have one encoding only: structures in the order of their fields, `BTreeMap`s in the order of their keys.
        Ok(digest::of_parts(&[&serde_json::to_vec(self)?, &serde_json::to_vec(files)?]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A base's id is a digest of this text, so a change would give every stored base another id.
    #[test]
    fn the_header_is_encoded_as_every_version_has_written_it() {
        let header = Header {
            kind: BaseKind::Diskless,
            image: ImageDigest::from([10; 32]),
            taken_at_ms: 7,
            shape: Shape { vcpus: 1, memory_mib: 512 },
            compatibility_key: "key".to_owned(),
            memory: "memory".to_owned(),
            state: "state".to_owned(),
            disk: "disk".to_owned(),
        };
        let text = serde_json::to_string(&header).expect("encoded");
        let image = "0a".repeat(32);
        let expected =
            format!(r#"{{"kind":"bare","image":"{image}","taken_at_ms":7,"shape":{{"vcpus":1,"memory_mib":512}},"#)
                + r#""compatibility_key":"key","memory":"memory","state":"state","disk":"disk"}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Header>(&text).expect("read"), header);
    }
}
