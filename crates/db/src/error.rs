//! What a database operation failed at.

use leapbox_api_types::sandbox::SandboxState;
use leapbox_ids::SandboxId;
use std::path::PathBuf;

/// A failed database operation. None of these texts is meant for a client.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database's file could not be made.
    #[error("creating the database file {path}")]
    Create {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is there but does not open as a database.
    #[error("opening the database {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed; it was rolled back.
    #[error("bringing the database to schema version {version}")]
    Migrate {
        /// The version that could not be reached.
        version: i64,
        #[source]
        source: sqlx::Error,
    },
    /// The database was written by a later version of Leapbox.
    #[error("the database has schema version {found}, this program knows up to {known}: use the newer program")]
    SchemaTooNew {
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// The database was written by a version of Leapbox between releases; its schema is not this one's.
    #[error(
        "the database {path} was made by an unreleased version of Leapbox and has another schema: move it away (with \
         its -wal and -shm files) and run `leapbox setup` again"
    )]
    SchemaUnreleased { path: PathBuf },
    /// A query failed.
    #[error("database query {query}")]
    Query {
        query: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// A column is not there or has another type.
    #[error("reading {table}.{column}")]
    Column {
        table: &'static str,
        column: &'static str,
        /// What is wrong with it.
        #[source]
        source: sqlx::Error,
    },
    /// A stored value is not what this program writes.
    #[error("the database has an unreadable {table}.{column}: {value:?}")]
    Unreadable { table: &'static str, column: &'static str, value: String },
    /// A sandbox's row lacks what its state needs: nothing this program has written.
    #[error(
        "the database's row of sandbox {id} is impossible: it is {state} and has no {column}; put a backup of the \
         database back, or set the row's state to 'deleted' to give the sandbox up"
    )]
    Impossible { id: SandboxId, state: SandboxState, column: &'static str },
    /// The name, or the id, is in use already.
    #[error("there is already a {table} with this name or id: {name}")]
    Taken { table: &'static str, name: String },
    /// No row has this id.
    #[error("there is no {table} {id}")]
    Missing { table: &'static str, id: String },
}

impl DbError {
    /// For `map_err` after the query of the function `query`.
    pub(crate) fn query(query: &'static str) -> impl FnOnce(sqlx::Error) -> DbError {
        move |source| DbError::Query { query, source }
    }

    /// For `map_err` after an insert that may meet a unique constraint.
    pub(crate) fn insert(query: &'static str, table: &'static str, name: &str) -> impl FnOnce(sqlx::Error) -> DbError {
        let name = name.to_owned();
        move |source| match &source {
            sqlx::Error::Database(cause) if cause.is_unique_violation() => DbError::Taken { table, name },
            _ => DbError::Query { query, source },
        }
    }
}
