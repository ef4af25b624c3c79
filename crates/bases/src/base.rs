//! What a base is, and how it is named.

use leapbox_ids::{BaseId, ImageDigest};
use leapbox_storage::{SealedFile, digest};
use leapbox_vmm::{Shape, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Computed from all its contents: another base that is created of the same image has another id.
    pub id: BaseId,
    /// How far its guest had come.
    pub kind: BaseKind,
    /// The guest image it was booted from.
    pub image: ImageDigest,
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
    pub image: ImageDigest,
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
    pub fn id_with(&self, files: &BTreeMap<String, SealedFile>) -> Result<BaseId, serde_json::Error> {
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
            kind: BaseKind::Bare,
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
