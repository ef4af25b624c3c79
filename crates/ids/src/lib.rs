//! Typed ids of everything the API names, and of what is stored.
//!
//! An id is a prefix, a dash and twenty random characters, and is a DNS label: a sandbox's id is the first part of
//! its hostname. The random part starts with a letter, so that an id never ends in `-<digits>`, which is how the
//! gateway tells a port apart (`sbx-…-8080`). What is named after its contents ([`BaseId`], [`ImageDigest`]) has a
//! digest instead.

mod content;
mod random;

pub use content::{ArchiveId, BaseId, ImageDigest};
pub use random::{CheckpointId, KeyId, OrganisationId, SandboxId, SnapshotId, TemplateId};

/// Why a text is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id: it must be {form}")]
pub struct InvalidId {
    /// What kind of id was expected.
    pub kind: &'static str,
    /// What such an id looks like.
    pub form: &'static str,
}

/// What every id is beside its form: a text that is cheap to clone, shown and stored as it is, and checked when it is
/// read.
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
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
use text;
