//! Applies the versions of the schema that a database lacks, in order and in one transaction.
//!
//! A file that has been released is never edited; a change is a new file at the end of [`MIGRATIONS`]. A file may
//! change before its release. The table `schema_version` therefore keeps the text of each version: a database that was
//! made with another text is refused, although its version number fits.

use crate::DbError;
use sqlx::Executor;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use std::path::Path;

/// The SQL of all versions; version n is at index n - 1.
const MIGRATIONS: [&str; 2] =
    [include_str!("../migrations/0001_first.sql"), include_str!("../migrations/0002_installation.sql")];

/// The newest version that this program knows.
pub(crate) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Brings the database at `path` to [`NEWEST`]. Two processes may call this at once: the second finds the work done.
pub(crate) async fn run(pool: &SqlitePool, path: &Path) -> Result<(), DbError> {
    let step = |version| move |source| DbError::Migrate { version, source };
    // IMMEDIATE takes the write lock now and not at the first write, so that no other process can migrate between the
    // reading of the versions below and the commit.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(step(0))?;
    let applied = applied(&mut transaction, path).await?;
    for (version, sql) in (1..).zip(MIGRATIONS) {
        // The version number alone would say that an unreleased schema fits, and queries would fail much later.
        match applied.iter().find(|(found, _)| *found == version) {
            Some((_, text)) if text == sql => continue,
            Some(_) => return Err(DbError::SchemaUnreleased { path: path.to_owned() }),
            None => {}
        }
        transaction.execute(sql).await.map_err(step(version))?;
        sqlx::query("INSERT INTO schema_version (version, text) VALUES ($1, $2)")
            .bind(version)
            .bind(sql)
            .execute(&mut *transaction)
            .await
            .map_err(step(version))?;
        tracing::info!(version, "database schema brought up to date");
    }
    transaction.commit().await.map_err(step(NEWEST))
}

/// The versions that have been applied to the database, with the text of each.
async fn applied(connection: &mut SqliteConnection, path: &Path) -> Result<Vec<(i64, String)>, DbError> {
    let error = |source| DbError::Migrate { version: 0, source };
    connection
        .execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY, text TEXT NOT NULL)")
        .await
        .map_err(error)?;
    let found: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM schema_version")
        .fetch_one(&mut *connection)
        .await
        .map_err(error)?;
    if found > NEWEST {
        return Err(DbError::SchemaTooNew { found, known: NEWEST });
    }
    match sqlx::query_as("SELECT version, text FROM schema_version").fetch_all(connection).await {
        Ok(applied) => Ok(applied),
        // Before the first release there were databases whose table had no column for the text.
        Err(sqlx::Error::Database(cause)) if cause.message().contains("no such column") => {
            Err(DbError::SchemaUnreleased { path: path.to_owned() })
        }
        Err(source) => Err(error(source)),
    }
}
