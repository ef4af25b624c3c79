//! The server's key, from which all keys are derived that seal stored state of sandboxes, on a disk or in a bucket.
//!
//! ```text
//! server.key (32 random bytes) ─HKDF-SHA256─┬─► a key for every part of every archive   (archive)
//!                                           ├─► the key of manifests' tags              (archive)
//!                                           ├─► a key for every small secret            (seal, open)
//!                                           └─► the fingerprint, which is no secret
//! ```
//!
//! Whoever has the file can read all archives, and without it nobody can: it belongs into the installation's backup,
//! and not beside a backup of the bucket. `serve` creates it at the first start; `store` uses it for archives, and
//! `lifecycle` for secrets in the database (environments, network policies, certificate authorities).

mod file;
#[cfg(test)]
mod tests;

use crate::strict_hex;
use leapbox_errors::FileError;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use std::path::{Path, PathBuf};

/// Bytes of the key's file.
const KEY_LENGTH: usize = 32;
// Keys are derived from the server's key and a random salt, and each encrypts under fixed nonces. A salt that came
// twice would break that; of 256 random bits, none does.
pub(crate) const SALT_LENGTH: usize = 32;
/// Bytes of a fingerprint, which is written as twice as many hexadecimal digits.
pub(crate) const FINGERPRINT_LENGTH: usize = 8;
/// HKDF's salt (RFC 5869), which separates these keys from whatever else the same bytes might be used for.
const DOMAIN: &[u8] = b"leapbox server key 1";

/// The server's key, or a secret that was sealed with it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    File(#[from] FileError),
    /// A link, directory or device lies where the key should.
    #[error("{path} is not a regular file; the server's key must be one")]
    NotAFile { path: PathBuf },
    /// The file was cut off, or is something else.
    #[error(
        "{path} has {found} bytes and a server key has {KEY_LENGTH}: put the right one back from a backup (if nothing was ever stored with it, remove the file, and the next start makes a new one)"
    )]
    Length { path: PathBuf, found: u64 },
    /// The owner of the file could have chosen the key.
    #[error("{path} belongs to uid {owner}, not to the server's: `chown` it if it is the right one")]
    Owner { path: PathBuf, owner: u32 },
    /// Other users of the host can read or replace the key.
    #[error("{path} is open to others (mode {mode:04o}): `chmod 0600` it, and consider who may have read it")]
    Mode { path: PathBuf, mode: u32 },
    #[error("the operating system gave no random bytes")]
    Random,
    /// The cryptographic library refused the lengths that it was given, which by its rules never happens here.
    #[error("{step} failed in the cryptographic library")]
    Crypto { step: &'static str },
    /// The secret was changed, cut off, or sealed for another purpose or with another key. Which of them it was cannot
    /// be told from an authentication that fails.
    #[error("a stored secret cannot be opened as {purpose}: it was changed, or sealed with another server key")]
    Refused { purpose: String },
}

/// The server's key. It is cheap to clone, and its `Debug` shows the fingerprint alone.
#[derive(Clone)]
pub struct ServerKey {
    prk: Prk,
    fingerprint: String,
}

impl ServerKey {
    /// Reads the key from `path`, or creates one there ([`ServerKey::create`]). Only for callers to whom a new key is
    /// as good as one that may have been lost, as in tests. Blocking.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path)? {
            Some(key) => Ok(key),
            None => Self::create(path),
        }
    }

    /// Creates a key in `path`: 32 random bytes, for this process's user alone (0600), on disk when this returns. The
    /// directory must exist and be private. A key that is there is never replaced: if another process has just made
    /// one, this is that one. Blocking.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        Self::new_and_wipe(&mut file::create(path)?)
    }

    /// Reads the key from `path`; none if there is no such file. Blocking.
    pub fn load(path: &Path) -> Result<Option<Self>, KeyError> {
        file::load(path)?.map(|mut bytes| Self::new_and_wipe(&mut bytes)).transpose()
    }

    /// Makes the key of a file's bytes, and wipes these.
    fn new_and_wipe(bytes: &mut [u8; KEY_LENGTH]) -> Result<Self, KeyError> {
        let key = Self::new(bytes);
        bytes.fill(0);
        key
    }

    fn new(bytes: &[u8; KEY_LENGTH]) -> Result<Self, KeyError> {
        let prk = Salt::new(HKDF_SHA256, DOMAIN).extract(bytes);
        let mut name = [0; FINGERPRINT_LENGTH];
        derive(&prk, &[b"fingerprint"], &mut name)?;
        Ok(Self { prk, fingerprint: hex::encode(name) })
    }

    /// The same key for the same seed, for tests.
    #[cfg(test)]
    pub(crate) fn of(seed: u8) -> Self {
        Self::new(&[seed; KEY_LENGTH]).expect("a key")
    }

    /// Names the key without revealing anything of it: 16 hexadecimal digits, derived like a key of its own.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Seals a small secret for the database, as hexadecimal digits. It opens only with the same `purpose`, which says
    /// what it is and whose.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<String, KeyError> {
        let salt = random::<SALT_LENGTH>()?;
        let mut sealed = plain.to_vec();
        // The purpose is associated data, so that whoever can write the database cannot give one organisation's sealed
        // secret to another's sandbox.
        self.aead(&[b"secret", &salt])?
            .seal_in_place_append_tag(nonce_once(), Aad::from(purpose.as_bytes()), &mut sealed)
            .map_err(|_: Unspecified| KeyError::Crypto { step: "sealing a secret" })?;
        Ok(hex::encode(salt) + &hex::encode(&sealed))
    }

    /// Opens a secret that [`ServerKey::seal`] has sealed for the same purpose.
    pub fn open(&self, purpose: &str, sealed: &str) -> Result<Vec<u8>, KeyError> {
        let refused = || KeyError::Refused { purpose: purpose.to_owned() };
        let bytes = strict_hex::decode(sealed).ok_or_else(refused)?;
        let (salt, sealed) = bytes.split_at_checked(SALT_LENGTH).ok_or_else(refused)?;
        let mut sealed = sealed.to_vec();
        self.aead(&[b"secret", salt])?
            .open_in_place(nonce_once(), Aad::from(purpose.as_bytes()), &mut sealed)
            .map(|plain| plain.to_vec())
            .map_err(|_: Unspecified| refused())
    }

    /// Derives the AES-256-GCM key for the context `info`.
    pub(crate) fn aead(&self, info: &[&[u8]]) -> Result<LessSafeKey, KeyError> {
        let mut bytes = [0; KEY_LENGTH];
        derive(&self.prk, info, &mut bytes)?;
        let key =
            UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_: Unspecified| KeyError::Crypto { step: "making a key" });
        bytes.fill(0);
        key.map(LessSafeKey::new)
    }

    /// Derives the HMAC-SHA256 key for the context `info`.
    pub(crate) fn hmac(&self, info: &[&[u8]]) -> Result<hmac::Key, KeyError> {
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        derive(&self.prk, info, &mut bytes)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        bytes.fill(0);
        Ok(key)
    }
}

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerKey").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// Random bytes from the kernel (`getrandom`).
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_: Unspecified| KeyError::Random)?;
    Ok(bytes)
}

/// The nonce for a key that encrypts a single message, because its salt is random. A constant one is enough for that.
fn nonce_once() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// Fills `out` with bytes for the context `info` (HKDF-Expand, RFC 5869).
fn derive(prk: &Prk, info: &[&[u8]], out: &mut [u8]) -> Result<(), KeyError> {
    // HKDF concatenates the pieces. Their lengths in front keep two lists with the same concatenation (an archive's id
    // and a part's name, split elsewhere) from having the same key.
    let lengths: Vec<u8> = info.iter().flat_map(|piece| (piece.len() as u64).to_le_bytes()).collect();
    let mut pieces = vec![lengths.as_slice()];
    pieces.extend(info);
    prk.expand(&pieces, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_: Unspecified| KeyError::Crypto { step: "deriving a key" })
}

/// The number of bytes to derive, as ring wants to have it.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
