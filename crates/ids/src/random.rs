//! Ids that are drawn: of everything that is made, not computed.

use crate::{InvalidId, text};
use std::str::FromStr;
use std::sync::Arc;

/// Random characters after the prefix: 20 of 32 symbols, 100 bits (the first is one of 16 letters).
const RANDOM_LEN: usize = 20;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn random_part() -> String {
    let mut raw = [0u8; RANDOM_LEN];
    // The host without a random source cannot run a sandbox service at all.
    getrandom::fill(&mut raw).expect("the operating system gives random bytes");
    raw.iter().enumerate().map(|(i, b)| ALPHABET[usize::from(if i == 0 { b & 15 } else { b & 31 })] as char).collect()
}

fn is_random_part(text: &str) -> bool {
    text.len() == RANDOM_LEN && text.bytes().all(|b| ALPHABET.contains(&b)) && text.as_bytes()[0].is_ascii_lowercase()
}

macro_rules! random_id {
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
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "-"))
                    .filter(|rest| is_random_part(rest))
                    .map(|_| Self(text.into()))
                    .ok_or(InvalidId {
                        kind: $kind,
                        form: concat!("`", $prefix, "-` and 20 characters of a-z and 2-7"),
                    })
            }
        }

        text!($name);
    };
}

random_id!(
    /// One sandbox.
    SandboxId, "sbx", "sandbox"
);
random_id!(
    /// One template: an image sandboxes are created from.
    TemplateId, "tpl", "template"
);
random_id!(
    /// A snapshot: a sandbox's state at one moment, with a name to restore it by.
    SnapshotId, "snap", "snapshot"
);
random_id!(
    /// A checkpoint: the stored state that a paused or stopped sandbox owns, or that a snapshot names. Never shown.
    CheckpointId, "ckp", "checkpoint"
);
random_id!(
    /// An organisation: the owner of keys and of everything made with them.
    OrganisationId, "org", "organisation"
);
random_id!(
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
