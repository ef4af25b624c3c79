//! The manifest: `{"format":1,"key":"<fingerprint>","tag":"<HMAC of the content's bytes>","content":{…}}`.

use super::error::ArchiveError;
use crate::key::{SALT_LENGTH, ServerKey};
use crate::strict_hex;
use ring::error::Unspecified;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;

/// The manifest's name in its folder, and of its object.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The most bytes of a manifest that are read.
pub(crate) const MANIFEST_MAX: u64 = 1 << 20;
/// The most bytes of a part of [`Kind::Bytes`], which is read into memory as a whole: 64 MiB.
pub(super) const BYTES_MAX: u64 = 64 << 20;
/// Changes with every change of what is written.
const FORMAT: u32 = 1;
/// What the tag's key is derived for.
const TAG: &[&[u8]] = &[b"archive manifest"];

/// What was stored in a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartStats {
    /// Bytes that went in: of the runs' data, without offsets.
    pub plain_bytes: u64,
    /// Bytes of the file, or of the object in a bucket.
    pub stored_bytes: u64,
    /// Frames: pieces that are compressed, encrypted and checked each for itself.
    pub frames: u64,
}

/// How a part is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Bytes, one after the other.
    Bytes,
    /// Runs, each with its place.
    Runs,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    pub kind: Kind,
    pub stats: PartStats,
}

/// What the manifest says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub id: String,
    /// Hexadecimal; random, for the parts' keys.
    pub salt: String,
    pub header: serde_json::Value,
    pub parts: BTreeMap<String, Part>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    format: u32,
    key: String,
    tag: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// Read before everything else, whatever a later version may have put beside it.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

impl Manifest {
    /// The bytes of the file at `path`.
    pub fn encode(&self, key: &ServerKey, path: &Path) -> Result<Vec<u8>, ArchiveError> {
        let unencodable = |source| ArchiveError::Encode { path: path.to_path_buf(), source };
        let content = serde_json::value::to_raw_value(self).map_err(unencodable)?;
        let tag = hex::encode(hmac::sign(&tag_key(key, path)?, content.get().as_bytes()).as_ref());
        let envelope = Envelope { format: FORMAT, key: key.fingerprint().to_owned(), tag, content: &content };
        let text = serde_json::to_vec(&envelope).map_err(unencodable)?;
        check_length(text.len() as u64, path)?;
        Ok(text)
    }

    /// The manifest of `id`, if that is what `text` is, unchanged. `path` is for the errors.
    pub fn decode(text: &[u8], id: &str, key: &ServerKey, path: &Path) -> Result<Self, ArchiveError> {
        let unreadable = |source| ArchiveError::ManifestUnreadable { path: path.to_path_buf(), source };
        check_length(text.len() as u64, path)?;
        let version: Version = serde_json::from_slice(text).map_err(unreadable)?;
        if version.format != u64::from(FORMAT) {
            let (path, found) = (path.to_path_buf(), version.format);
            return Err(ArchiveError::ManifestFormat { path, found, expected: FORMAT });
        }
        let envelope: Envelope = serde_json::from_slice(text).map_err(unreadable)?;
        if envelope.key != key.fingerprint() {
            let (path, expected) = (path.to_path_buf(), key.fingerprint().to_owned());
            return Err(ArchiveError::OtherKey { path, found: envelope.key, expected });
        }
        let damaged = || ArchiveError::ManifestDamaged { path: path.to_path_buf() };
        // Spaces between the fields would not be under the tag.
        if serde_json::to_vec(&envelope).map_err(unreadable)? != text {
            return Err(damaged());
        }
        let tag = strict_hex::decode(&envelope.tag).ok_or_else(damaged)?;
        hmac::verify(&tag_key(key, path)?, envelope.content.get().as_bytes(), &tag)
            .map_err(|_: Unspecified| damaged())?;
        let manifest: Self = serde_json::from_str(envelope.content.get()).map_err(unreadable)?;
        if manifest.id != id {
            let (path, expected) = (path.to_path_buf(), id.to_owned());
            return Err(ArchiveError::OtherArchive { path, found: manifest.id, expected });
        }
        manifest.parts.keys().try_for_each(|name| super::check_name(name))?;
        Ok(manifest)
    }

    /// The salt's bytes.
    pub fn salt(&self, path: &Path) -> Result<Vec<u8>, ArchiveError> {
        let damaged = || ArchiveError::ManifestDamaged { path: path.to_path_buf() };
        strict_hex::decode(&self.salt).filter(|salt| salt.len() == SALT_LENGTH).ok_or_else(damaged)
    }
}

/// A manifest's length, before its bytes are held in memory.
pub(crate) fn check_length(length: u64, path: &Path) -> Result<(), ArchiveError> {
    if length > MANIFEST_MAX {
        return Err(ArchiveError::ManifestTooLong { path: path.to_path_buf(), length });
    }
    Ok(())
}

fn tag_key(key: &ServerKey, path: &Path) -> Result<hmac::Key, ArchiveError> {
    key.hmac(TAG).map_err(|source| ArchiveError::Key { path: path.to_path_buf(), source })
}
