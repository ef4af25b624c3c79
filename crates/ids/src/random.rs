//! Random ids.

use crate::{InvalidId, text};
use std::str::FromStr;
use std::sync::Arc;

/// Random characters after the prefix: 20 of 32 symbols, the first one of 16 letters, which are 99 bits. Nobody can
/// guess the id of a stranger's sandbox, and no two ids collide.
const RANDOM_LEN: usize = 20;
/// Base32 (RFC 4648) in lower case: valid in host names, and without `0`, `1`, `8` and `9`, which look like letters.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn random_part() -> String {
    let mut raw = [0u8; RANDOM_LEN];
    // getrandom(2) fails only on kernels without it, on which no sandbox could run either.
    getrandom::fill(&mut raw).expect("the operating system gives random bytes");
    // 16 and 32 divide 256, so every symbol is equally likely.
    raw.iter().enumerate().map(|(i, b)| ALPHABET[usize::from(if i == 0 { b & 15 } else { b & 31 })] as char).collect()
}

fn is_random_part(text: &str) -> bool {
    // The gateway reads `-<digits>` at the end of a host name's first label as a port, so an id must not end like that.
    text.len() == RANDOM_LEN && text.bytes().all(|b| ALPHABET.contains(&b)) && text.as_bytes()[0].is_ascii_lowercase()
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text before the dash.
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
    /// The id of a sandbox, also the first label of its host name.
    SandboxId, "sbx", "sandbox"
);
random_id!(
    /// The id of a template, which is an image that sandboxes are created from.
    TemplateId, "tpl", "template"
);
random_id!(
    /// The id of a snapshot, which is a named reference to a checkpoint.
    SnapshotId, "snap", "snapshot"
);
random_id!(
    /// The id of a checkpoint: the stored state of a paused or stopped sandbox or of a snapshot. Not shown by the API.
    CheckpointId, "ckp", "checkpoint"
);
random_id!(
    /// The id of an organisation, which owns keys and everything that is made with them.
    OrganisationId, "org", "organisation"
);
random_id!(
    /// The public id of an API key, which says nothing about its secret.
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
