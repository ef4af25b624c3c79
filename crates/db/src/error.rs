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

/// SQLite's (extended) result codes of a disk without space: SQLITE_FULL, and SQLITE_IOERR_SHMSIZE for the file of the
/// write-ahead log's index, whose blocks are allocated when it grows (sqlite.org/rescode.html).
const DISK_FULL: [&str; 2] = ["13", "4874"];

impl DbError {
    /// Whether the disk had no space for what was to be written. Nothing of the transaction was.
    pub fn is_disk_full(&self) -> bool {
        let DbError::Query { source: sqlx::Error::Database(error), .. } = self else { return false };
        error.code().is_some_and(|code| DISK_FULL.contains(&code.as_ref()))
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::Connection;
    use sqlx::sqlite::SqliteConnection;

    #[tokio::test]
    async fn a_database_that_may_not_grow_is_told_from_other_faults() {
        let mut database = SqliteConnection::connect("sqlite::memory:").await.expect("a database");
        let mut run = async |statement| {
            let done = sqlx::query(statement).execute(&mut database).await;
            done.map_err(DbError::query("test"))
        };
        run("CREATE TABLE t (x BLOB)").await.expect("made");
        run("PRAGMA max_page_count = 2").await.expect("set");
        assert!(run("INSERT INTO t VALUES (zeroblob(100000))").await.expect_err("no room").is_disk_full());
        assert!(!run("INSERT INTO nothing VALUES (1)").await.expect_err("no table").is_disk_full());
    }
}
