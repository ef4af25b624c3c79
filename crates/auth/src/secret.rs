//! The secret of a key: `lbx_` and 43 random characters of 0-9, A-Z, a-z, which are 256 bits.

use sha2::{Digest, Sha256};

const PREFIX: &str = "lbx_";
/// 62^43 is just above 2^256.
const RANDOM_LEN: usize = 43;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Random characters that a list of keys shows. They tell keys apart and leave 232 of the 256 bits secret.
const DISPLAYED: usize = 4;

/// SHA-256 of a secret.
// Not a slow password hash: nobody can guess 256 random bits, however fast the hash, and every request computes one.
pub(crate) type KeyHash = [u8; 32];

/// Makes a new secret.
pub(crate) fn generate() -> Result<String, getrandom::Error> {
    let mut secret = String::with_capacity(PREFIX.len() + RANDOM_LEN);
    secret.push_str(PREFIX);
    let mut raw = [0u8; 64];
    while secret.len() < PREFIX.len() + RANDOM_LEN {
        getrandom::fill(&mut raw)?;
        // Six bits of each byte. The values 62 and 63 are thrown away, because taking them modulo 62 would make two
        // characters likelier than the others.
        let characters = raw.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 63)));
        let missing = PREFIX.len() + RANDOM_LEN - secret.len();
        secret.extend(characters.take(missing).map(|byte| char::from(*byte)));
    }
    Ok(secret)
}

/// The hash of a secret; `None` if the text does not have the form of one.
pub(crate) fn hash(text: &str) -> Option<KeyHash> {
    let random = text.strip_prefix(PREFIX)?;
    let shaped = random.len() == RANDOM_LEN && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    shaped.then(|| Sha256::digest(text.as_bytes()).into())
}

/// The hash of a secret as the database has it: lower-case hex.
pub(crate) fn hash_hex(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// Reads a hash from the database; `None` if it is not 64 hexadecimal digits.
pub(crate) fn hash_from_hex(text: &str) -> Option<KeyHash> {
    let mut hash = KeyHash::default();
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

/// The first characters of a secret, which a list shows.
pub(crate) fn display(secret: &str) -> String {
    secret.chars().take(PREFIX.len() + DISPLAYED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn secrets_are_distinct_and_shaped_like_secrets() {
        let secrets: HashSet<String> = (0..1000).map(|_| generate().expect("random bytes")).collect();
        assert_eq!(secrets.len(), 1000);
        assert!(secrets.iter().all(|secret| hash(secret).is_some()));
        let used: HashSet<char> = secrets.iter().flat_map(|secret| secret[PREFIX.len()..].chars()).collect();
        assert_eq!(used.len(), ALPHABET.len());
    }

    #[test]
    fn the_stored_hash_reads_back_as_the_hash_of_the_secret() {
        let secret = generate().expect("random bytes");
        assert_eq!(hash_from_hex(&hash_hex(&secret)), hash(&secret));
        assert_eq!(hash_from_hex("00"), None);
        assert_eq!(hash_from_hex(&"+f".repeat(32)), None);
    }

    #[test]
    fn what_is_not_shaped_like_a_secret_is_not_even_hashed() {
        let good = generate().expect("random bytes");
        for bad in ["", "lbx_", &good[4..], &format!("{good}A"), &good[..good.len() - 1], &good.replace("lbx_", "LBX_")]
        {
            assert_eq!(hash(bad), None, "{bad}");
        }
        assert_eq!(hash(&format!("lbx_{}", "-".repeat(43))), None);
    }

    #[test]
    fn a_list_shows_eight_characters_of_a_secret() {
        assert_eq!(display("lbx_AbCdEfGh"), "lbx_AbCd");
    }
}
