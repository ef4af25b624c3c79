//! Typed ids of everything the API names.
//!
//! An id is a prefix, a dash and twenty random characters, and is a DNS label: a sandbox's id is the first part of
//! its hostname. The random part starts with a letter, so that an id never ends in `-<digits>`, which is how the
//! gateway tells a port apart (`sbx-…-8080`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Random characters after the prefix: 20 of 32 symbols, 100 bits (the first is one of 16 letters).
const RANDOM_LEN: usize = 20;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Why a text is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id: it must be `{prefix}-` and {RANDOM_LEN} characters of a-z and 2-7")]
pub struct InvalidId {
    /// What kind of id was expected.
    pub kind: &'static str,
    /// The prefix such an id has.
    pub prefix: &'static str,
}

fn random_part() -> String {
    let mut raw = [0u8; RANDOM_LEN];
    // The host without a random source cannot run a sandbox service at all.
    getrandom::fill(&mut raw).expect("the operating system gives random bytes");
    raw.iter().enumerate().map(|(i, b)| ALPHABET[usize::from(if i == 0 { b & 15 } else { b & 31 })] as char).collect()
}

fn is_random_part(text: &str) -> bool {
    text.len() == RANDOM_LEN && text.bytes().all(|b| ALPHABET.contains(&b)) && text.as_bytes()[0].is_ascii_lowercase()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The part before the dash.
            pub const PREFIX: &'static str = $prefix;

            /// A new random id.
            pub fn generate() -> Self {
                Self(format!("{}-{}", $prefix, random_part()).into())
            }

            /// The id as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "-"))
                    .filter(|rest| is_random_part(rest))
                    .map(|_| Self(text.into()))
                    .ok_or(InvalidId { kind: $kind, prefix: $prefix })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// One sandbox.
    SandboxId, "sbx", "sandbox"
);
id!(
    /// One template: an image sandboxes are created from.
    TemplateId, "tpl", "template"
);
id!(
    /// A snapshot: a sandbox's state at one moment, with a name to restore it by.
    SnapshotId, "snap", "snapshot"
);
id!(
    /// A checkpoint: the stored state that a paused or stopped sandbox owns, or that a snapshot names. Never shown.
    CheckpointId, "ckp", "checkpoint"
);
id!(
    /// An organisation: the owner of keys and of everything made with them.
    OrganisationId, "org", "organisation"
);
id!(
    /// An API key's public name (never the secret itself).
    KeyId, "key", "key"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_parses_back_and_is_a_dns_label() {
        for _ in 0..1000 {
            let id = SandboxId::generate();
            assert_eq!(id.as_str().parse::<SandboxId>().as_ref(), Ok(&id));
            assert!(id.as_str().len() <= 63);
        }
    }

    #[test]
    fn an_id_never_ends_in_a_dash_and_digits() {
        for _ in 0..1000 {
            let id = SandboxId::generate();
            let tail = id.as_str().rsplit('-').next().expect("has a dash");
            assert!(!tail.bytes().all(|b| b.is_ascii_digit()));
        }
        assert!("sbx-22222222222222222222".parse::<SandboxId>().is_err());
    }

    #[test]
    fn another_kinds_id_is_refused() {
        let template = TemplateId::generate();
        assert!(template.as_str().parse::<SandboxId>().is_err());
        assert!(SnapshotId::generate().as_str().parse::<CheckpointId>().is_err());
        assert!("sbx-".parse::<SandboxId>().is_err());
        assert!("sbx-ABCDEFGHIJKLMNOPQRST".parse::<SandboxId>().is_err());
    }
}
