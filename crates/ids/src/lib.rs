//! Typed ids of the resources of the API, and of stored archives. An id of one kind cannot be passed for another.
//!
//! An id is a prefix, a dash and twenty random characters, and is a DNS label: a sandbox's id is the first part of
//! its hostname. The random part starts with a letter, so that an id never ends in `-<digits>`, which is how the
//! gateway recognises a port (`sbx-…-8080`). [`BaseId`] and [`ImageDigest`] are digests of the contents they name.

mod content;
mod random;

pub use content::{ArchiveId, BaseId, ImageDigest};
pub use random::{CheckpointId, KeyId, OrganisationId, SandboxId, SnapshotId, TemplateId};

/// The error of parsing a text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id: it must be {form}")]
pub struct InvalidId {
    pub kind: &'static str,
    /// The form of such an id, in words.
    pub form: &'static str,
}

/// Implements the methods and traits that are the same for all ids: an id is a text behind an `Arc`, cheap to clone,
/// printed and serialized as it is, and parsed when it is deserialized.
macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The id as it stands on the wire and in the database.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // Ids come from requests, manifests and rows of the database: none is used unchecked.
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
use text;
