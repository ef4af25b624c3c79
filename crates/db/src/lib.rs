//! The database: organisations, API keys, templates, sandboxes and snapshots, which outlive the server, and what it
//! knows of itself.
//!
//! There is one file per resource, with functions named noun first (`sandbox_insert`, `sandbox_list`), all of them
//! methods of [`Db`]. `auth` reads keys, `lifecycle` sandboxes, snapshots and templates, the command line
//! organisations. `archive.rs` says which archives the rows still need. By `installation.rs` an older copy of the database
//! is told from the newest one, and `set_aside.rs` remembers what waits for its removal. The SQL is plain, so that
//! Postgres can replace SQLite.
//!
//! ```text
//! Db ─┬─ write: one connection; SQLite has one writer, and the pool's queue is fair where SQLite's busy loop is not
//!     └─ read:  a few connections; in WAL mode they never wait for the writer
//! ```

#![forbid(unsafe_code)]

mod api_key;
mod archive;
mod database;
mod error;
mod installation;
mod migrations;
mod organisation;
mod row;
mod sandbox;
mod set_aside;
mod snapshot;
mod template;

pub use api_key::{ApiKeyRow, KeysVersion};
pub use database::Db;
pub use error::DbError;
pub use installation::Installation;
pub use organisation::OrganisationRow;
pub use sandbox::{Live, Origin, Sandbox, Sealed, Spec, Status, Stored, StoredDisk, StoredMemory, VmRecord};
pub use set_aside::{SetAside, SetAsideKind, SweepWord};
pub use snapshot::SnapshotRow;
pub use template::TemplateRow;
