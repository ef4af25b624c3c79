//! Organisations, the owners of API keys and of everything that is made with them. Called by `leapbox setup` and
//! `leapbox keys`.

use crate::row::{Row, row};
use crate::{Db, DbError};
use leapbox_ids::OrganisationId;

row! {
    pub struct OrganisationRow of "organisation" {
        id: OrganisationId,
        name: String,
        created_at_ms: i64,
    }
}

impl Db {
    /// Inserts an organisation. [`DbError::Taken`] when the name is in use.
    pub async fn organisation_insert(&self, row: &OrganisationRow) -> Result<(), DbError> {
        row.insert(self, "organisation_insert", &row.name).await
    }

    pub async fn organisation_by_name(&self, name: &str) -> Result<Option<OrganisationRow>, DbError> {
        let row = sqlx::query(&OrganisationRow::select("WHERE name = $1"))
            .bind(name)
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("organisation_by_name"))?;
        row.as_ref().map(OrganisationRow::read).transpose()
    }

    /// Lists all organisations, oldest first.
    pub async fn organisation_list(&self) -> Result<Vec<OrganisationRow>, DbError> {
        sqlx::query(&OrganisationRow::select("ORDER BY created_at_ms, id"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("organisation_list"))?
            .iter()
            .map(OrganisationRow::read)
            .collect()
    }
}
