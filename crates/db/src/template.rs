//! Templates: the images sandboxes are made from.

use crate::row::Columns;
use crate::{Db, DbError};
use leapbox_ids::TemplateId;
use sqlx::sqlite::SqliteRow;

const COLUMNS: &str = "id, name, rootfs_digest, created_at_ms";

/// One template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRow {
    /// Its id.
    pub id: TemplateId,
    /// Its name, unique (`system/debian:bookworm`).
    pub name: String,
    /// Names the content of its root file system.
    pub rootfs_digest: String,
    /// Unix time in ms.
    pub created_at_ms: i64,
}

impl TemplateRow {
    fn read(row: &SqliteRow) -> Result<Self, DbError> {
        let columns = Columns::new("template", row);
        Ok(Self {
            id: columns.parsed("id")?,
            name: columns.get("name")?,
            rootfs_digest: columns.get("rootfs_digest")?,
            created_at_ms: columns.get("created_at_ms")?,
        })
    }
}

impl Db {
    /// Adds a template. [`DbError::Taken`] when the name is in use.
    pub async fn template_insert(&self, row: &TemplateRow) -> Result<(), DbError> {
        sqlx::query("INSERT INTO template (id, name, rootfs_digest, created_at_ms) VALUES ($1, $2, $3, $4)")
            .bind(row.id.as_str())
            .bind(&row.name)
            .bind(&row.rootfs_digest)
            .bind(row.created_at_ms)
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(DbError::insert("template_insert", "template", &row.name))
    }

    /// Points a template at a rebuilt root file system; its id and name stay.
    pub async fn template_rootfs_update(&self, id: &TemplateId, rootfs_digest: &str) -> Result<(), DbError> {
        let done = sqlx::query("UPDATE template SET rootfs_digest = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(rootfs_digest)
            .execute(&self.write)
            .await
            .map_err(DbError::query("template_rootfs_update"))?;
        match done.rows_affected() {
            0 => Err(DbError::Missing { table: "template", id: id.to_string() }),
            _ => Ok(()),
        }
    }

    /// The template of this name.
    pub async fn template_by_name(&self, name: &str) -> Result<Option<TemplateRow>, DbError> {
        let row = sqlx::query(&format!("SELECT {COLUMNS} FROM template WHERE name = $1"))
            .bind(name)
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("template_by_name"))?;
        row.as_ref().map(TemplateRow::read).transpose()
    }

    /// The template of this id.
    pub async fn template_by_id(&self, id: &TemplateId) -> Result<Option<TemplateRow>, DbError> {
        let row = sqlx::query(&format!("SELECT {COLUMNS} FROM template WHERE id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("template_by_id"))?;
        row.as_ref().map(TemplateRow::read).transpose()
    }

    /// Every template, by name.
    pub async fn template_list(&self) -> Result<Vec<TemplateRow>, DbError> {
        sqlx::query(&format!("SELECT {COLUMNS} FROM template ORDER BY name"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("template_list"))?
            .iter()
            .map(TemplateRow::read)
            .collect()
    }
}
