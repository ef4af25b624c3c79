//! Organisations: the owners of keys and of everything made with them.

use crate::row::Columns;
use crate::{Db, DbError};
use leapbox_ids::OrganisationId;
use sqlx::sqlite::SqliteRow;

/// One organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganisationRow {
    /// Its id.
    pub id: OrganisationId,
    /// Its name, unique.
    pub name: String,
    /// Unix time in ms.
    pub created_at_ms: i64,
}

impl OrganisationRow {
    fn read(row: &SqliteRow) -> Result<Self, DbError> {
        let columns = Columns::new("organisation", row);
        Ok(Self { id: columns.parsed("id")?, name: columns.get("name")?, created_at_ms: columns.get("created_at_ms")? })
    }
}

impl Db {
    /// Adds an organisation. [`DbError::Taken`] when the name is in use.
    pub async fn organisation_insert(&self, row: &OrganisationRow) -> Result<(), DbError> {
        sqlx::query("INSERT INTO organisation (id, name, created_at_ms) VALUES ($1, $2, $3)")
            .bind(row.id.as_str())
            .bind(&row.name)
            .bind(row.created_at_ms)
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(DbError::insert("organisation_insert", "organisation", &row.name))
    }

    /// The organisation of this name.
    pub async fn organisation_by_name(&self, name: &str) -> Result<Option<OrganisationRow>, DbError> {
        let row = sqlx::query("SELECT id, name, created_at_ms FROM organisation WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("organisation_by_name"))?;
        row.as_ref().map(OrganisationRow::read).transpose()
    }

    /// Every organisation, oldest first.
    pub async fn organisation_list(&self) -> Result<Vec<OrganisationRow>, DbError> {
        sqlx::query("SELECT id, name, created_at_ms FROM organisation ORDER BY created_at_ms, id")
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("organisation_list"))?
            .iter()
            .map(OrganisationRow::read)
            .collect()
    }
}
