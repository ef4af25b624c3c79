//! The templates this server can make sandboxes from.

use crate::clock::now_ms;
use crate::error::{LifecycleError, StartError};
use leapbox_db::{Db, TemplateRow};
use leapbox_ids::TemplateId;
use leapbox_templates::{Artifacts, ImageConfig};
use leapbox_vmm::GuestImage;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One template, ready to use.
#[derive(Debug)]
pub(crate) struct Template {
    pub id: TemplateId,
    pub image: GuestImage,
    pub config: Arc<ImageConfig>,
}

/// All of them by name.
#[derive(Debug)]
pub(crate) struct Catalog {
    by_name: BTreeMap<String, Arc<Template>>,
}

impl Catalog {
    /// Reads what set-up has built; a template keeps its id over rebuilds.
    pub async fn load(artifacts: &Artifacts, db: &Db) -> Result<Self, StartError> {
        let mut by_name = BTreeMap::new();
        for name in artifacts.templates() {
            let image = artifacts.guest_image(name)?;
            let config = Arc::new(artifacts.image_config(name)?);
            let id = template_id(db, name, &image.digest).await?;
            by_name.insert(name.to_owned(), Arc::new(Template { id, image, config }));
        }
        Ok(Self { by_name })
    }

    pub fn by_name(&self, name: &str) -> Result<Arc<Template>, LifecycleError> {
        self.by_name.get(name).cloned().ok_or_else(|| LifecycleError::UnknownTemplate {
            name: name.to_owned(),
            known: self.by_name.keys().cloned().collect(),
        })
    }

    pub fn by_id(&self, id: &TemplateId) -> Option<Arc<Template>> {
        self.by_name.values().find(|template| template.id == *id).cloned()
    }

    pub fn images(&self) -> Vec<GuestImage> {
        self.by_name.values().map(|template| template.image.clone()).collect()
    }
}

async fn template_id(db: &Db, name: &str, digest: &str) -> Result<TemplateId, StartError> {
    if let Some(row) = db.template_by_name(name).await? {
        if row.rootfs_digest != digest {
            db.template_rootfs_update(&row.id, digest).await?;
        }
        return Ok(row.id);
    }
    let row = TemplateRow {
        id: TemplateId::generate(),
        name: name.to_owned(),
        rootfs_digest: digest.to_owned(),
        created_at_ms: now_ms(),
    };
    db.template_insert(&row).await?;
    Ok(row.id)
}
