//! Templates, the images that sandboxes are created from. Called by `lifecycle`, which enters at its start what
//! `leapbox setup` has built.

use crate::row::{Row, row};
use crate::{Db, DbError};
use leapbox_ids::TemplateId;

row! {
    pub struct TemplateRow of "template" {
        id: TemplateId,
        /// Unique; for example `system/debian:bookworm`.
        name: String,
        /// Digest of its current guest image (kernel, initramfs and root file system), as in the column `image` of a
        /// sandbox.
        rootfs_digest: String,
        created_at_ms: i64,
    }
}

impl Db {
    /// Inserts a template. [`DbError::Taken`] when the name is in use.
    pub async fn template_insert(&self, row: &TemplateRow) -> Result<(), DbError> {
        row.insert(self, "template_insert", &row.name).await
    }

    /// Sets the digest of a template that was rebuilt; its id and name stay.
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

    pub async fn template_by_name(&self, name: &str) -> Result<Option<TemplateRow>, DbError> {
        let row = sqlx::query(&TemplateRow::select("WHERE name = $1"))
            .bind(name)
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("template_by_name"))?;
        row.as_ref().map(TemplateRow::read).transpose()
    }

    pub async fn template_by_id(&self, id: &TemplateId) -> Result<Option<TemplateRow>, DbError> {
        let row = sqlx::query(&TemplateRow::select("WHERE id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("template_by_id"))?;
        row.as_ref().map(TemplateRow::read).transpose()
    }

    /// Lists all templates, ordered by name.
    pub async fn template_list(&self) -> Result<Vec<TemplateRow>, DbError> {
        sqlx::query(&TemplateRow::select("ORDER BY name"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("template_list"))?
            .iter()
            .map(TemplateRow::read)
            .collect()
    }
}
