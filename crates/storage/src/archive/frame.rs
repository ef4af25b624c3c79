//! One frame of a part: `length (u32, of what follows) ‖ AES-256-GCM( codec (u8) ‖ plain length (u32) ‖ data )`.
//!
//! The cipher is AES-GCM, because every host that runs virtual machines has instructions for it, with which it is twice
//! as fast as ChaCha20-Poly1305. The compression is LZ4, because a wake waits for the decompression.

use super::error::ArchiveError;
use crate::KeyError;
use crate::key::ServerKey;
use crate::run::RUN_MAX;
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use ring::error::Unspecified;
use std::num::TryFromIntError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of a frame before compression: the longest run with its head of 12 bytes must fit.
pub(super) const PLAIN_MAX: usize = RUN_MAX + 4096;
/// Bytes of the codec and the plain length, which are encrypted together with the data.
const HEAD: usize = 5;
const TAG: usize = 16;
const STORED: u8 = 0;
const LZ4: u8 = 1;
/// Bytes of the length before a frame.
pub(super) const PREFIX: usize = 4;
// A reader must believe the length before a frame, because only the whole frame can be authenticated. These bounds
// limit what a damaged or forged length can make it allocate to some 1 MiB.
pub(super) const SEALED_MAX: usize = HEAD + PLAIN_MAX + TAG;
pub(super) const SEALED_MIN: usize = HEAD + TAG;

/// A frame's position in its part. `index` (counted from 0) and `last` make the nonce; `offset`, the byte in the file
/// at which the frame begins, is for the errors alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FramePosition {
    pub index: u64,
    pub last: bool,
    pub offset: u64,
}

/// Seals and opens the frames of one part. Several threads work on a part, each with a clone.
#[derive(Clone)]
pub(super) struct FrameKey {
    key: Arc<LessSafeKey>,
    path: PathBuf,
}

impl FrameKey {
    /// Derives the key of the part `name` of the archive `id`; `path` is the part's, for the errors.
    pub fn new(key: &ServerKey, id: &str, name: &str, salt: &[u8], path: &Path) -> Result<Self, ArchiveError> {
        let key = key.aead(&[b"archive part", id.as_bytes(), name.as_bytes(), salt]);
        let key = key.map_err(|source| ArchiveError::Key { path: path.to_path_buf(), source })?;
        Ok(Self { key: Arc::new(key), path: path.to_path_buf() })
    }

    /// Returns the bytes of a frame as they are in the file, its length first.
    pub fn seal(&self, position: FramePosition, plain: &[u8]) -> Result<Vec<u8>, ArchiveError> {
        let capacity = lz4_flex::block::get_maximum_output_size(plain.len()).max(plain.len());
        let mut frame = vec![0; PREFIX + HEAD + capacity];
        let body = &mut frame[PREFIX + HEAD..];
        // Data that LZ4 cannot make an eighth smaller (keys, media, what is compressed already) is stored as it is: a
        // wake then copies it and need not decompress it.
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
        // No associated data: the key already names the archive and the part, and the nonce the position.
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(position), Aad::empty(), &mut frame[PREFIX..])
            .map_err(|_: Unspecified| self.seal_failed())?;
        frame.extend_from_slice(tag.as_ref());
        Ok(frame)
    }

    /// Returns the plain bytes of `frame`, which is given without its length, if it was sealed for this position.
    pub fn open(&self, position: FramePosition, mut frame: Vec<u8>) -> Result<Vec<u8>, ArchiveError> {
        let damaged = || self.damaged(position);
        let opened =
            self.key.open_in_place(nonce(position), Aad::empty(), &mut frame).map_err(|_: Unspecified| damaged())?;
        let (head, data) = opened.split_first_chunk::<HEAD>().ok_or_else(damaged)?;
        let [codec, length @ ..] = *head;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_: TryFromIntError| damaged())?;
        // The length is authenticated by now. It is checked all the same, because it decides how much is allocated.
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

    /// The error for a frame that does not open.
    pub fn damaged(&self, position: FramePosition) -> ArchiveError {
        ArchiveError::Damaged { path: self.path.clone(), frame: position.index, offset: position.offset }
    }

    fn seal_failed(&self) -> ArchiveError {
        ArchiveError::Key { path: self.path.clone(), source: KeyError::Crypto { step: "sealing a frame" } }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The nonce is unique under a part's key: the key is of one part of one archive, and each of its positions is sealed
/// once.
fn nonce(position: FramePosition) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&position.index.to_le_bytes());
    // A part that is cut off after a whole frame ends with one that was not sealed as the last, which does not open.
    bytes[NONCE_LEN - 1] = u8::from(position.last);
    Nonce::assume_unique_for_key(bytes)
}

const _: () = assert!(SEALED_MAX < u32::MAX as usize, "a frame's length fits before it");
const _: () = assert!(NONCE_LEN == 12 && TAG == 16, "of AES-GCM");
