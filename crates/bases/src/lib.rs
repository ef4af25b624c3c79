//! Bases: the warm snapshots that machines start from, per guest image, shape and kind.
//!
//! ```text
//! first use of a shape:      slot + pristine disk ─boot─► agent answers ─────────────────────────► Bare ┐
//!                                                             └─ mount, warm, sync ──────────────► Ready ┤
//! a host that has lost it:   archive ─import─────────────────────────────────────────────────────────────┴─seal─►
//!                                                                                          warm/base-<digest>/
//! first use in a server's life:    warm/base-<digest>/ ─verify─► sound: shared from then on
//!                                                          └───► damaged: refused, removed, and created as above
//! every later use:                 shared
//! ```
//!
//! The *compatibility key* of a base says what it fits: a new kernel, agent, image, VMM build or host CPU is a new key.
//! The newest base of a key and kind is the current one. An older base, or one that fits nothing in use any more, is
//! kept as long as something stored is a difference to it. A base is trusted input to a VMM, so its folder belongs to
//! the server alone, and its contents are verified once in a server's life: while the server runs, nobody else can
//! write there. Called by `lifecycle`.
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
