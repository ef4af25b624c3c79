//! State that outlives the server: organisations, API keys, templates, sandboxes, snapshots.
//!
//! One file per resource, functions noun first (`sandbox_insert`, `sandbox_list`), all on a [`Db`] handle. `auth` asks
//! for keys, `lifecycle` for sandboxes, snapshots and templates, the command line for organisations. `archive.rs` says
//! which stored archives the rows still need. The SQL is plain, so that Postgres can take SQLite's place.
//!
//! ```text
//! Db ─┬─ write: one connection; SQLite has one writer, and waiting in line here is fair, its busy loop is not
//!     └─ read:  a few connections; in WAL mode they never wait for the writer
//! ```

#![forbid(unsafe_code)]

mod api_key;
mod archive;
mod database;
mod error;
mod migrations;
mod organisation;
mod row;
mod sandbox;
mod snapshot;
mod template;

pub use api_key::{ApiKeyRow, KeysVersion};
pub use database::Db;
pub use error::DbError;
pub use organisation::OrganisationRow;
pub use sandbox::{Live, Origin, Sandbox, Sealed, Spec, Status, Stored, StoredDisk, StoredMemory, VmRecord};
pub use snapshot::SnapshotRow;
pub use template::TemplateRow;
