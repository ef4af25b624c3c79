//! Bases, the snapshots that machines start from, one for each guest image, shape and kind: this crate creates,
//! verifies, finds, evicts, exports and imports them.
//!
//! ```text
//! first use of a shape:      slot + pristine disk ─boot─► agent answers ──────────────────────► Diskless ┐
//!                                                             └─ mount, warm up, sync ───────────► Ready ┤
//! a host that has lost it:   archive ─import─────────────────────────────────────────────────────────────┴─seal─►
//!                                                                                          warm/base-<digest>/
//! first use after a start:         warm/base-<digest>/ ─verify─► sound: shared from then on
//!                                                          └───► damaged: refused, removed, and created as above
//! every later use:                 shared
//! ```
//!
//! The *compatibility key* of a base says which hosts and images it fits: a new kernel, agent, image, VMM build or host
//! CPU makes a new key. The newest base of a key and kind is the current one. An older base, or one that fits nothing
//! in use any more, is kept as long as a checkpoint is a difference to it. A base is trusted input to a VMM, so its
//! directory belongs to the server alone. Its contents are verified once after each start of the server, which suffices
//! because nobody else can write there. Called by `lifecycle`.
#![forbid(unsafe_code)]

mod attach;
mod base;
mod create;
mod error;
mod export;
mod folder;
mod index;
mod store;

pub use attach::{attachment, guest_of};
pub use base::{Base, BaseKind};
pub use error::BaseError;
pub use store::Bases;
