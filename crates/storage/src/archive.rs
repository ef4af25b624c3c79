//! Archives: the stored state of a sandbox, a base or an image, as it lies on a disk or in a bucket.
//!
//! ```text
//! <folder>/<id>/manifest.json   format, key's fingerprint, tag ─► id, salt, header (the owner's: readable, no secrets)
//!                                                                 parts: name ─► kind, frames, plain and stored bytes
//!               memory, disk    frames of runs                    (a part per name)
//!               state           frames of bytes
//!
//! part    frame ‖ frame ‖ … ‖ last frame
//! frame   length (u32) ‖ AES-256-GCM( LZ4( about 1 MiB of runs or bytes ) )
//! key     HKDF(server key, id ‖ part's name ‖ salt): of this part of this archive, and of no other
//! nonce   the frame's number, and whether it is the last: a frame fits in its own place only
//! tag     HMAC-SHA256 over the content's bytes
//! ```
//!
//! So a changed bit, a missing end, frames in another order, a part of another archive and an archive under another name
//! are all found: the manifest's when it is opened, a frame's before a byte of it is handed out. Nothing is believed
//! before it is authenticated but the length of a frame, and that is bounded.
//!
//! An archive is written under `.<id>` and renamed when all of it is on disk; from then on it never changes. Reader and
//! writer hold a few frames in memory, however large the part. Everything here is blocking. Called by `store`.

mod error;
mod files;
mod frame;
mod manifest;
mod ordered;
mod reader;
mod runs;
#[cfg(test)]
mod tests;
mod writer;

pub use error::ArchiveError;
pub use manifest::PartStats;
pub use reader::Archive;

pub(crate) use files::check_name;
pub(crate) use manifest::{MANIFEST, MANIFEST_MAX, Manifest};
pub(crate) use writer::{Writer, publish};
