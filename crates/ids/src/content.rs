//! Ids that are computed from the contents they name, and the ids of archives.

use crate::{CheckpointId, InvalidId, text};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const BASE_PREFIX: &str = "base-";
/// 160 of SHA-256's 256 bits. Only the server makes bases, so only accidental collisions have to be excluded.
const BASE_DIGITS: usize = 40;
const IMAGE_PREFIX: &str = "image-";
const IMAGE_DIGITS: usize = 64;

fn is_hex(text: &str, digits: usize) -> bool {
    // Lower case only: one text for each value, because these texts are compared as file names and object keys.
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id of a base snapshot: a digest of all its contents. Two bases that were taken of one image differ, because the
/// memory and device state of two boots do.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseId(Arc<str>);

text!(BaseId);

/// The id of the base whose contents have this SHA-256.
impl From<[u8; 32]> for BaseId {
    fn from(sha256: [u8; 32]) -> Self {
        let mut text = format!("{BASE_PREFIX}{}", hex::encode(sha256));
        text.truncate(BASE_PREFIX.len() + BASE_DIGITS);
        Self(text.into())
    }
}

impl FromStr for BaseId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix(BASE_PREFIX)
            .filter(|digits| is_hex(digits, BASE_DIGITS))
            .map(|_| Self(text.into()))
            .ok_or(InvalidId { kind: "base", form: "`base-` and 40 hexadecimal digits" })
    }
}

/// The digest of a guest image: SHA-256 over kernel, initramfs and root file system, in lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageDigest(Arc<str>);

text!(ImageDigest);

impl From<[u8; 32]> for ImageDigest {
    fn from(sha256: [u8; 32]) -> Self {
        Self(hex::encode(sha256).into())
    }
}

impl FromStr for ImageDigest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match is_hex(text, IMAGE_DIGITS) {
            true => Ok(Self(text.into())),
            false => Err(InvalidId { kind: "image", form: "64 hexadecimal digits" }),
        }
    }
}

/// The id of an archive, by which it is named in the store's directory and in the bucket. The prefix shows the kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ArchiveId {
    Checkpoint(CheckpointId),
    Base(BaseId),
    /// Written as `image-` and the digest, because the digest alone has no prefix.
    Image(ImageDigest),
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchiveId::Checkpoint(id) => id.fmt(f),
            ArchiveId::Base(id) => id.fmt(f),
            ArchiveId::Image(digest) => write!(f, "{IMAGE_PREFIX}{digest}"),
        }
    }
}

impl FromStr for ArchiveId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Every form is checked in full: names come from directories and buckets, and a name like `image-../x` must not
        // become a path.
        if let Some(digest) = text.strip_prefix(IMAGE_PREFIX) {
            return digest.parse().map(ArchiveId::Image);
        }
        match text.starts_with(BASE_PREFIX) {
            true => text.parse().map(ArchiveId::Base),
            false => text.parse().map(ArchiveId::Checkpoint),
        }
    }
}

impl From<&CheckpointId> for ArchiveId {
    fn from(id: &CheckpointId) -> Self {
        ArchiveId::Checkpoint(id.clone())
    }
}

impl From<&BaseId> for ArchiveId {
    fn from(id: &BaseId) -> Self {
        ArchiveId::Base(id.clone())
    }
}

impl From<&ImageDigest> for ArchiveId {
    fn from(digest: &ImageDigest) -> Self {
        ArchiveId::Image(digest.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archives_id_parses_back_to_what_it_is_of() {
        let (digest, base) = (ImageDigest::from([10; 32]), BaseId::from([10; 32]));
        assert_eq!(digest.as_str(), "0a".repeat(32));
        assert_eq!(base.as_str(), format!("base-{}", "0a".repeat(20)));
        let ids = [ArchiveId::from(&CheckpointId::generate()), ArchiveId::from(&base), ArchiveId::from(&digest)];
        for id in ids {
            assert_eq!(id.to_string().parse().as_ref(), Ok(&id));
        }
    }

    #[test]
    fn a_name_that_would_leave_the_store_is_no_id() {
        for text in ["", "base-", "base-../x", "image-..", "image-/etc/passwd", "..", "snap-aaaaaaaaaaaaaaaaaaaa"] {
            assert!(text.parse::<ArchiveId>().is_err(), "{text}");
        }
        assert!("0A".repeat(32).parse::<ImageDigest>().is_err());
        assert!("base-0a".parse::<BaseId>().is_err());
    }
}
