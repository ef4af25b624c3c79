//! Errors of database operations.

use leapbox_api_types::sandbox::SandboxState;
use leapbox_ids::SandboxId;
use std::path::PathBuf;

/// A failed database operation. The texts are for the operator: clients only read that the database failed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("the database file {path} could not be created")]
    Create {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file exists, but is no database or cannot be read.
    #[error("the database {path} could not be opened")]
    Open {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed and was rolled back.
    #[error("the database could not be brought to schema version {version}")]
    Migrate {
        /// The version that could not be reached; 0 if the versions could not be read.
        version: i64,
        #[source]
        source: sqlx::Error,
    },
    /// A later version of Leapbox has written the database.
    #[error(
        "the database has schema version {found}, but this version of Leapbox knows up to {known}: use the newer one"
    )]
    SchemaTooNew { found: i64, known: i64 },
    /// A version of Leapbox between two releases has made the database, and its schema is not this one's.
    #[error(
        "the database {path} was made by an unreleased version of Leapbox and has another schema: move it away (with \
         its -wal and -shm files) and run `leapbox setup` again"
    )]
    SchemaUnreleased { path: PathBuf },
    #[error("the database query {query} failed")]
    Query {
        query: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// The column does not exist or has another type.
    #[error("the database's column {table}.{column} could not be read")]
    Column {
        table: &'static str,
        column: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// A stored value is not one that this program writes.
    #[error("the database has an invalid value in {table}.{column}: {value:?}")]
    Unreadable { table: &'static str, column: &'static str, value: String },
    /// A sandbox's row lacks a column that its state needs, so this program has not written it.
    #[error(
        "the database's row of sandbox {id} is impossible: it is {state} and has no {column}; put a backup of the \
         database back, or set the row's state to 'deleted' to give the sandbox up"
    )]
    Impossible { id: SandboxId, state: SandboxState, column: &'static str },
    /// A unique column has this value in another row.
    #[error("there is already a {table} with this name or id: {name}")]
    Taken { table: &'static str, name: String },
    #[error("there is no {table} {id}")]
    Missing { table: &'static str, id: String },
}

impl DbError {
    /// Makes the function for `map_err` after a statement of the function `query`.
    pub(crate) fn query(query: &'static str) -> impl FnOnce(sqlx::Error) -> DbError {
        move |source| DbError::Query { query, source }
    }

    /// Makes the function for `map_err` after an insert, which may violate a unique constraint.
    pub(crate) fn insert(query: &'static str, table: &'static str, name: &str) -> impl FnOnce(sqlx::Error) -> DbError {
        let name = name.to_owned();
        move |source| match &source {
            sqlx::Error::Database(cause) if cause.is_unique_violation() => DbError::Taken { table, name },
            _ => DbError::Query { query, source },
        }
    }
}
