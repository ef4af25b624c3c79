//! The server's key: everything of a sandbox that rests on a disk or in a bucket is sealed with keys derived from it.
//!
//! ```text
//! server.key (32 random bytes) ─HKDF-SHA256─┬─► a key for every part of every archive   (archive)
//!                                           ├─► the key of manifests' tags              (archive)
//!                                           ├─► a key for every small secret            (seal, open)
//!                                           └─► the fingerprint, which is no secret
//! ```
//!
//! Whoever has the file can read all archives, and without it nobody can: it belongs into the installation's backup,
//! and not beside one of the bucket. Made at the first start by `serve`; used by `store` and by `lifecycle` (a
//! sandbox's environment in the database).

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
/// Random bytes that make the key of a part or a secret its own: enough never to meet twice.
pub(crate) const SALT_LENGTH: usize = 32;
/// HKDF's salt: separates these keys from whatever else the same bytes might be used for.
const DOMAIN: &[u8] = b"leapbox server key 1";

/// Why the key, or what was sealed with it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A link, folder or device lies where the key should.
    #[error("{path} is not a regular file; the server's key must be one")]
    NotAFile { path: PathBuf },
    /// Cut off, or something else altogether.
    #[error(
        "{path} has {found} bytes and a server key has {KEY_LENGTH}: put the right one back from a backup (if nothing was ever stored with it, remove the file, and the next start makes a new one)"
    )]
    Length { path: PathBuf, found: u64 },
    /// Somebody else could have chosen it.
    #[error("{path} belongs to uid {owner}, not to the server's: `chown` it if it is the right one")]
    Owner { path: PathBuf, owner: u32 },
    /// Somebody else can read it.
    #[error("{path} is open to others (mode {mode:04o}): `chmod 0600` it, and consider who may have read it")]
    Mode { path: PathBuf, mode: u32 },
    /// The kernel gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
    /// The cryptographic library refused; by its rules it never does for what is asked of it here.
    #[error("{step} failed in the cryptographic library")]
    Crypto { step: &'static str },
    /// Changed, cut off, sealed for another purpose or with another key.
    #[error("a stored secret cannot be opened as {purpose}: it was changed, or sealed with another server key")]
    Refused {
        /// What it was opened as.
        purpose: String,
    },
}

/// The server's key. Cheap to clone; shows nothing of itself.
#[derive(Clone)]
pub struct ServerKey {
    prk: Prk,
    fingerprint: String,
}

impl ServerKey {
    /// Reads the key from `path`, or makes one there: 32 random bytes, for this process's user alone (0600), on disk
    /// when this returns. The folder must exist and be private. Blocking.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let mut bytes = match file::load(path)? {
            Some(bytes) => bytes,
            None => file::create(path)?,
        };
        let key = Self::new(&bytes);
        bytes.fill(0);
        key
    }

    /// Reads the key from `path`; none if there is no such file. Blocking.
    pub fn load(path: &Path) -> Result<Option<Self>, KeyError> {
        file::load(path)?.map(|bytes| Self::new(&bytes)).transpose()
    }

    fn new(bytes: &[u8; KEY_LENGTH]) -> Result<Self, KeyError> {
        let prk = Salt::new(HKDF_SHA256, DOMAIN).extract(bytes);
        let mut name = [0; 8];
        derive(&prk, &[b"fingerprint"], &mut name)?;
        Ok(Self { prk, fingerprint: hex::encode(name) })
    }

    /// A key that is always the same.
    #[cfg(test)]
    pub(crate) fn of(seed: u8) -> Self {
        Self::new(&[seed; KEY_LENGTH]).expect("a key")
    }

    /// Names the key without betraying it: 16 hexadecimal digits.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Seals a small secret for the database, as hexadecimal digits. It opens only with the same `purpose`, which says
    /// what it is and whose: so that nobody who can write the database moves it elsewhere.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<String, KeyError> {
        let salt = random::<SALT_LENGTH>()?;
        let mut sealed = plain.to_vec();
        self.aead(&[b"secret", &salt])?
            .seal_in_place_append_tag(nonce_once(), Aad::from(purpose.as_bytes()), &mut sealed)
            .map_err(|_: Unspecified| KeyError::Crypto { step: "sealing a secret" })?;
        Ok(hex::encode(salt) + &hex::encode(&sealed))
    }

    /// Opens what [`ServerKey::seal`] made for the same purpose.
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

    /// The AES-256-GCM key of what `info` names.
    pub(crate) fn aead(&self, info: &[&[u8]]) -> Result<LessSafeKey, KeyError> {
        let mut bytes = [0; KEY_LENGTH];
        derive(&self.prk, info, &mut bytes)?;
        let key =
            UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_: Unspecified| KeyError::Crypto { step: "making a key" });
        bytes.fill(0);
        key.map(LessSafeKey::new)
    }

    /// The HMAC-SHA256 key of what `info` names.
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

/// Bytes from the kernel's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_: Unspecified| KeyError::Random)?;
    Ok(bytes)
}

/// The nonce of a key that encrypts one message only: its salt is random.
fn nonce_once() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// Fills `out`. The pieces of `info` are told apart by their lengths, so that no two lists mean the same key.
fn derive(prk: &Prk, info: &[&[u8]], out: &mut [u8]) -> Result<(), KeyError> {
    let lengths: Vec<u8> = info.iter().flat_map(|piece| (piece.len() as u64).to_le_bytes()).collect();
    let mut pieces = vec![lengths.as_slice()];
    pieces.extend(info);
    prk.expand(&pieces, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_: Unspecified| KeyError::Crypto { step: "deriving a key" })
}

/// A number of bytes to derive.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
