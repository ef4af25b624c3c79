//! One frame of a part: `length (u32, of what follows) ‖ AES-256-GCM( codec (u8) ‖ plain length (u32) ‖ data )`.
//!
//! AES-GCM, because every host that runs virtual machines has instructions for it, with which it is twice as fast as
//! ChaCha20-Poly1305. LZ4, because a wake waits for its decompression.

use super::error::ArchiveError;
use crate::KeyError;
use crate::key::ServerKey;
use crate::run::RUN_MAX;
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use ring::error::Unspecified;
use std::num::TryFromIntError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of a frame before compression: the longest run, with its place.
pub(super) const PLAIN_MAX: usize = RUN_MAX + 4096;
/// Codec and plain length.
const HEAD: usize = 5;
const TAG: usize = 16;
const STORED: u8 = 0;
const LZ4: u8 = 1;
/// The length before a frame.
pub(super) const PREFIX: usize = 4;
/// The most that the length before a frame may say, and the least.
pub(super) const SEALED_MAX: usize = HEAD + PLAIN_MAX + TAG;
pub(super) const SEALED_MIN: usize = HEAD + TAG;

/// A frame's place in its part, and so its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Counted from 0.
    pub index: u64,
    /// Nothing follows.
    pub last: bool,
    /// Where it begins in the file; for the errors.
    pub offset: u64,
}

/// Seals and opens the frames of one part. Cheap to clone, for several threads.
#[derive(Clone)]
pub(super) struct FrameKey {
    key: Arc<LessSafeKey>,
    path: PathBuf,
}

impl FrameKey {
    /// The key of the part `name` of the archive `id`; `path` is the part's, for the errors.
    pub fn new(key: &ServerKey, id: &str, name: &str, salt: &[u8], path: &Path) -> Result<Self, ArchiveError> {
        let key = key.aead(&[b"archive part", id.as_bytes(), name.as_bytes(), salt]);
        let key = key.map_err(|source| ArchiveError::Key { path: path.to_path_buf(), source })?;
        Ok(Self { key: Arc::new(key), path: path.to_path_buf() })
    }

    /// The bytes of a frame in the file, its length first.
    pub fn seal(&self, place: Place, plain: &[u8]) -> Result<Vec<u8>, ArchiveError> {
        let room = lz4_flex::block::get_maximum_output_size(plain.len()).max(plain.len());
        let mut frame = vec![0; PREFIX + HEAD + room];
        let body = &mut frame[PREFIX + HEAD..];
        // What LZ4 cannot make an eighth smaller is not worth decompressing.
        let (codec, length) = match lz4_flex::block::compress_into(plain, body) {
            Ok(length) if length < plain.len() - plain.len() / 8 => (LZ4, length),
            Ok(_) | Err(_) => {
                body[..plain.len()].copy_from_slice(plain);
                (STORED, plain.len())
            }
        };
        frame.truncate(PREFIX + HEAD + length);
        frame[..PREFIX].copy_from_slice(&((HEAD + length + TAG) as u32).to_le_bytes());
        frame[PREFIX] = codec;
        frame[PREFIX + 1..PREFIX + HEAD].copy_from_slice(&(plain.len() as u32).to_le_bytes());
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(place), Aad::empty(), &mut frame[PREFIX..])
            .map_err(|_: Unspecified| self.unsealed())?;
        frame.extend_from_slice(tag.as_ref());
        Ok(frame)
    }

    /// What was sealed, if `frame` (without its length) is that, in that place.
    pub fn open(&self, place: Place, mut frame: Vec<u8>) -> Result<Vec<u8>, ArchiveError> {
        let damaged = || self.damaged(place);
        let opened =
            self.key.open_in_place(nonce(place), Aad::empty(), &mut frame).map_err(|_: Unspecified| damaged())?;
        let (head, data) = opened.split_first_chunk::<HEAD>().ok_or_else(damaged)?;
        let [codec, length @ ..] = *head;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_: TryFromIntError| damaged())?;
        if length > PLAIN_MAX {
            return Err(damaged());
        }
        match codec {
            STORED if data.len() == length => Ok(data.to_vec()),
            LZ4 => {
                let mut plain = vec![0; length];
                match lz4_flex::block::decompress_into(data, &mut plain) {
                    Ok(found) if found == length => Ok(plain),
                    Ok(_) | Err(_) => Err(damaged()),
                }
            }
            _ => Err(damaged()),
        }
    }

    /// The error for a frame that is not sound.
    pub fn damaged(&self, place: Place) -> ArchiveError {
        ArchiveError::Damaged { path: self.path.clone(), frame: place.index, offset: place.offset }
    }

    fn unsealed(&self) -> ArchiveError {
        ArchiveError::Key { path: self.path.clone(), source: KeyError::Crypto { step: "sealing a frame" } }
    }

    /// The part's file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Unique under a part's key: the key is of one part of one archive, and each of its places is sealed once.
fn nonce(place: Place) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&place.index.to_le_bytes());
    bytes[NONCE_LEN - 1] = u8::from(place.last);
    Nonce::assume_unique_for_key(bytes)
}

const _: () = assert!(SEALED_MAX < u32::MAX as usize, "a frame's length fits before it");
const _: () = assert!(NONCE_LEN == 12 && TAG == 16, "of AES-GCM");
