//! What the database knows of itself, so that an older or an empty one is not taken for the newest: archives, bucket
//! and key are compared with it. Called by `serve` at its start, and by `lifecycle` for each archive's number.

use crate::row::{Column, Row, row};
use crate::{Db, DbError};

row! {
    /// The installation that the database belongs to. There is one at most.
    pub struct Installation of "installation" {
        /// Random; every checkpoint's archive and the bucket have it as well.
        id: String,
        /// The name under which the machines of this installation are found on the host.
        instance: String,
        /// Of the server's key, 16 hexadecimal digits.
        key_fingerprint: String,
        /// The first uid of the VMMs.
        base_uid: u32,
        /// The highest number that was given to an archive; 0 if none was.
        sequence: u64,
    }
}

impl Db {
    /// The installation; none before the first start of a server.
    pub async fn installation(&self) -> Result<Option<Installation>, DbError> {
        let row = sqlx::query(&Installation::select(""))
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("installation"))?;
        row.as_ref().map(Installation::read).transpose()
    }

    /// Inserts the installation. [`DbError::Taken`] when there is one.
    pub async fn installation_insert(&self, row: &Installation) -> Result<(), DbError> {
        row.insert(self, "installation_insert", &row.id).await
    }

    /// Updates all columns of [`Installation`], also the id. [`DbError::Missing`] when there is none.
    pub async fn installation_update(&self, row: &Installation) -> Result<(), DbError> {
        // Not `Row::update`, which finds a row by its id: this one may get another id, of the archives that it is to
        // belong to.
        let set = Installation::columns().into_iter().zip(1..).map(|(column, number)| format!("{column} = ${number}"));
        let statement = format!("UPDATE installation SET {}", set.collect::<Vec<_>>().join(", "));
        let done = row
            .bind(sqlx::query(&statement))
            .execute(&self.write)
            .await
            .map_err(DbError::query("installation_update"))?;
        match done.rows_affected() {
            0 => Err(missing(&row.id)),
            _ => Ok(()),
        }
    }

    /// Counts up and returns the number for the next archive, the first time 1. [`DbError::Missing`] when there is no
    /// installation.
    pub async fn next_sequence(&self) -> Result<u64, DbError> {
        // All rows and not one: SQLite commits the statement when it has returned its last row, and an archive must
        // never have a number that the database can forget.
        let counted: Vec<i64> =
            sqlx::query_scalar("UPDATE installation SET sequence = sequence + 1 RETURNING sequence")
                .fetch_all(&self.write)
                .await
                .map_err(DbError::query("next_sequence"))?;
        let number = counted.first().ok_or_else(|| missing("of this database"))?;
        u64::from_stored(number).ok_or_else(|| DbError::Unreadable {
            table: Installation::TABLE,
            column: "sequence",
            value: number.to_string(),
        })
    }

    /// Whether there is a snapshot, or a sandbox that is not deleted.
    pub async fn holds_sandboxes(&self) -> Result<bool, DbError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM sandbox WHERE state <> 'deleted') OR EXISTS (SELECT 1 FROM snapshot)",
        )
        .fetch_one(&self.read)
        .await
        .map_err(DbError::query("holds_sandboxes"))
    }
}

fn missing(id: &str) -> DbError {
    DbError::Missing { table: Installation::TABLE, id: id.to_owned() }
}
