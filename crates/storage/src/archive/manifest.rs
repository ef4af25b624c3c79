//! The manifest: `{"format":1,"key":"<fingerprint>","tag":"<HMAC of the content's bytes>","content":{…}}`.

use super::error::ArchiveError;
use super::files::open;
use crate::key::{SALT_LENGTH, ServerKey};
use crate::strict_hex;
use leapbox_errors::FileError;
use ring::error::Unspecified;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// The name of the manifest's file in its directory, and the last segment of its object's name in a bucket.
pub(crate) const MANIFEST: &str = "manifest.json";
// A manifest is read into memory as a whole before it can be authenticated, also from a bucket. 1 MiB holds the header
// and thousands of parts.
pub(crate) const MANIFEST_MAX: u64 = 1 << 20;
// A part of plain bytes is read into memory as a whole. Device states, for which it is made, have a few KiB.
pub(super) const BYTES_MAX: u64 = 64 << 20;
/// The version of the stored format; it changes when archives that were written before could not be read any more. A
/// new field that archives may lack is no such change: an older server never meets it, because it refuses the newer
/// database.
const FORMAT: u32 = 1;
/// The context from which the tag's key is derived.
const TAG: &[&[u8]] = &[b"archive manifest"];

/// The sizes of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartStats {
    /// Bytes that were given to the writer; of runs only the data counts, without offsets and lengths.
    pub plain_bytes: u64,
    /// Bytes of the file, or of the object in a bucket.
    pub stored_bytes: u64,
    /// Number of pieces that are compressed, encrypted and checked each for itself.
    pub frames: u64,
}

/// The place of an archive in the history of its installation. The database counts the numbers up, so that an archive
/// with a number above the database's count shows that the database is an older copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// The installation's random id, from its database.
    pub installation: String,
    /// Counts from 1.
    pub sequence: u64,
}

/// The form of a part's plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Bytes,
    /// Runs with their offsets, in the encoding of `runs`.
    Runs,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    pub kind: Kind,
    pub stats: PartStats,
}

/// The content of a manifest, over which its tag is computed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub id: String,
    /// Random bytes in hexadecimal, from which the keys of the parts are derived.
    pub salt: String,
    pub header: serde_json::Value,
    pub parts: BTreeMap<String, Part>,
    /// Checkpoints have one, unless an earlier version has written them; bases and images have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
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

/// The one field that is read before everything else, whatever a later version may have put beside it.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

impl Manifest {
    /// Returns the bytes of the manifest's file; `path` is for the errors.
    pub fn encode(&self, key: &ServerKey, path: &Path) -> Result<Vec<u8>, ArchiveError> {
        let unencodable = |source| ArchiveError::Encode { path: path.to_path_buf(), source };
        // The tag is over the very bytes that are written, so that checking it does not depend on how another version
        // of the JSON library prints the same values.
        let content = serde_json::value::to_raw_value(self).map_err(unencodable)?;
        let tag = hex::encode(hmac::sign(&tag_key(key, path)?, content.get().as_bytes()).as_ref());
        let envelope = Envelope { format: FORMAT, key: key.fingerprint().to_owned(), tag, content: &content };
        let text = serde_json::to_vec(&envelope).map_err(unencodable)?;
        check_length(text.len() as u64, path)?;
        Ok(text)
    }

    /// Returns the manifest if `text` is that of `id`, unchanged. `path` is for the errors.
    pub fn decode(text: &[u8], id: &str, key: &ServerKey, path: &Path) -> Result<Self, ArchiveError> {
        let unreadable = |source| ArchiveError::ManifestUnreadable { path: path.to_path_buf(), source };
        let envelope = Envelope::parse(text, path)?;
        // Under another key no tag matches. The operator is to look for the right key then, and not for a broken disk.
        if envelope.key != key.fingerprint() {
            let (path, expected) = (path.to_path_buf(), key.fingerprint().to_owned());
            return Err(ArchiveError::OtherKey { path, found: envelope.key, expected });
        }
        let damaged = || ArchiveError::ManifestDamaged { path: path.to_path_buf() };
        // The tag does not cover the envelope. Only the encoding that we write is accepted, so that a changed byte
        // between its fields is found as well.
        if serde_json::to_vec(&envelope).map_err(unreadable)? != text {
            return Err(damaged());
        }
        let tag = strict_hex::decode(&envelope.tag).ok_or_else(damaged)?;
        hmac::verify(&tag_key(key, path)?, envelope.content.get().as_bytes(), &tag)
            .map_err(|_: Unspecified| damaged())?;
        let manifest: Self = serde_json::from_str(envelope.content.get()).map_err(unreadable)?;
        // Whoever can write the directory or the bucket could put one sandbox's archive under the name of another's.
        if manifest.id != id {
            let (path, expected) = (path.to_path_buf(), id.to_owned());
            return Err(ArchiveError::OtherArchive { path, found: manifest.id, expected });
        }
        // The names become paths and names of objects.
        manifest.parts.keys().try_for_each(|name| super::check_name(name))?;
        Ok(manifest)
    }

    /// Returns the fingerprint of the key that a manifest says it was sealed with. Nothing of it is authenticated.
    /// `path` is for the errors.
    pub fn fingerprint(text: &[u8], path: &Path) -> Result<String, ArchiveError> {
        Ok(Envelope::parse(text, path)?.key)
    }

    pub fn salt(&self, path: &Path) -> Result<Vec<u8>, ArchiveError> {
        let damaged = || ArchiveError::ManifestDamaged { path: path.to_path_buf() };
        strict_hex::decode(&self.salt).filter(|salt| salt.len() == SALT_LENGTH).ok_or_else(damaged)
    }
}

impl<'a> Envelope<'a> {
    fn parse(text: &'a [u8], path: &Path) -> Result<Self, ArchiveError> {
        let unreadable = |source| ArchiveError::ManifestUnreadable { path: path.to_path_buf(), source };
        check_length(text.len() as u64, path)?;
        // The format comes first: the other checks would call the manifest of a later version damaged.
        let version: Version = serde_json::from_slice(text).map_err(unreadable)?;
        if version.format != u64::from(FORMAT) {
            let (path, found) = (path.to_path_buf(), version.format);
            return Err(ArchiveError::ManifestFormat { path, found, expected: FORMAT });
        }
        serde_json::from_slice(text).map_err(unreadable)
    }
}

/// Reads the manifest's file of the archive whose directory is `dir`. The bytes are not checked yet.
pub(crate) fn read_manifest(dir: &Path) -> Result<Vec<u8>, ArchiveError> {
    let path = dir.join(MANIFEST);
    let mut text = Vec::new();
    // One byte more than allowed, so that `check_length` sees that it is too long.
    open(&path)?.take(MANIFEST_MAX + 1).read_to_end(&mut text).map_err(FileError::of("reading", &path))?;
    Ok(text)
}

/// Refuses a manifest that is too long to be read into memory.
pub(crate) fn check_length(length: u64, path: &Path) -> Result<(), ArchiveError> {
    if length > MANIFEST_MAX {
        return Err(ArchiveError::ManifestTooLong { path: path.to_path_buf(), length });
    }
    Ok(())
}

fn tag_key(key: &ServerKey, path: &Path) -> Result<hmac::Key, ArchiveError> {
    key.hmac(TAG).map_err(|source| ArchiveError::Key { path: path.to_path_buf(), source })
}
