//! The manifest on disk: `{"format":1,"checksum":"<BLAKE3 of the content's bytes>","content":{…}}`.

use super::error::SealError;
use crate::checksum::Checksums;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) const MANIFEST: &str = "manifest.json";
/// The version of the stored format; it changes with every change of what is written or how checksums are computed.
const FORMAT: u32 = 1;

/// The length and the checksums of a file at the time when it was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedFile {
    /// Length in bytes, holes included.
    pub length: u64,
    pub(crate) chunks: Checksums,
}

/// The content of the manifest, over which its checksum is computed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    pub header: serde_json::Value,
    pub files: BTreeMap<String, SealedFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    format: u32,
    checksum: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// The one field that is read before everything else, whatever a later version may have put beside it.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

pub(super) fn encode(content: &Content) -> Result<Vec<u8>, serde_json::Error> {
    let content = serde_json::value::to_raw_value(content)?;
    serde_json::to_vec(&Envelope { format: FORMAT, checksum: checksum(&content), content: &content })
}

/// Reads a manifest; `path` is for the errors.
pub(super) fn decode(text: &[u8], path: &Path) -> Result<Content, SealError> {
    let unreadable = |source| SealError::ManifestUnreadable { path: path.to_path_buf(), source };
    // The format comes first: the other checks would call the manifest of a later version damaged, and `bases` would
    // remove its directory.
    let version: Version = serde_json::from_slice(text).map_err(unreadable)?;
    if version.format != u64::from(FORMAT) {
        let found = version.format;
        return Err(SealError::ManifestFormat { path: path.to_path_buf(), found, expected: FORMAT });
    }
    let envelope: Envelope = serde_json::from_slice(text).map_err(unreadable)?;
    if checksum(envelope.content) != envelope.checksum {
        return Err(SealError::ManifestDamaged { path: path.to_path_buf() });
    }
    serde_json::from_str(envelope.content.get()).map_err(unreadable)
}

fn checksum(content: &RawValue) -> String {
    blake3::hash(content.get().as_bytes()).to_string()
}
