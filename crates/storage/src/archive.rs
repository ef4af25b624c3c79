//! Archives: the stored form of a sandbox's checkpoint, of a base or of a guest image, on a disk or in a bucket.
//!
//! ```text
//! <dir>/<id>/manifest.json   format, key's fingerprint, tag ─► id, salt, header (the owner's: readable, no secrets)
//!                                                              parts: name ─► kind, frames, plain and stored bytes
//!                                                              stamp (of checkpoints): installation's id, number
//!            memory, disk    frames of runs                    (a file per part)
//!            state           frames of bytes
//!
//! part    frame ‖ frame ‖ … ‖ last frame
//! frame   length (u32) ‖ AES-256-GCM( LZ4( about 1 MiB of runs or bytes ) )
//! key     HKDF(server key, id ‖ part's name ‖ salt), which no other part of any archive has
//! nonce   the frame's number and whether it is the last, so that a frame opens at its own position only
//! tag     HMAC-SHA256 over the content's bytes
//! ```
//!
//! A changed bit, a missing end, frames in another order, a part of another archive and an archive under another name
//! are therefore all found: faults of the manifest when the archive is opened, faults of a frame before any of its
//! bytes is used. The one value that is used before it is authenticated is the length of a frame, and it is bounded.
//!
//! An archive is written under `.<id>` and renamed when all of it is on disk; from then on it never changes. Reader and
//! writer hold a few frames in memory, however large the part is. Everything here is blocking. Called by `store`.

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
pub use manifest::{PartStats, Stamp};
pub use reader::Archive;

pub(crate) use files::check_name;
pub(crate) use manifest::{MANIFEST, MANIFEST_MAX, Manifest, read_manifest};
pub(crate) use writer::{Writer, publish};
