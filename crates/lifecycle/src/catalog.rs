//! The templates this server can make sandboxes from, and the images that stored sandboxes were made from.

use crate::clock::now_ms;
use crate::error::{LifecycleError, StartError};
use leapbox_db::{Db, TemplateRow};
use leapbox_ids::{ImageDigest, TemplateId};
use leapbox_templates::{ArtifactError, Artifacts, ImageConfig};
use leapbox_vmm::GuestImage;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One template, ready to use.
#[derive(Debug)]
pub struct Template {
    pub id: TemplateId,
    /// What its machines boot.
    pub image: GuestImage,
    /// User, folders, environment and port of its processes.
    pub config: Arc<ImageConfig>,
}

/// All of them by name.
#[derive(Debug, Default)]
pub struct Catalog {
    by_name: BTreeMap<String, Arc<Template>>,
    /// None over simulated machines, which boot no images.
    artifacts: Option<Artifacts>,
}

impl Catalog {
    /// Reads what set-up has built; a template keeps its id over rebuilds.
    pub(crate) async fn load(artifacts: Artifacts, db: &Db) -> Result<Self, StartError> {
        let mut by_name = BTreeMap::new();
        for name in artifacts.templates() {
            let image = artifacts.guest_image(name)?;
            let config = Arc::new(artifacts.image_config(name)?);
            let id = template_id(db, name, image.digest.as_str()).await?;
            by_name.insert(name.to_owned(), Arc::new(Template { id, image, config }));
        }
        Ok(Self { by_name, artifacts: Some(artifacts) })
    }

    /// One template, and no other image: for simulated machines.
    pub async fn of_one(db: &Db, name: &str, image: GuestImage, config: ImageConfig) -> Result<Self, StartError> {
        let id = template_id(db, name, image.digest.as_str()).await?;
        let template = Arc::new(Template { id, image, config: Arc::new(config) });
        Ok(Self { by_name: BTreeMap::from([(name.to_owned(), template)]), artifacts: None })
    }

    pub(crate) fn by_name(&self, name: &str) -> Result<Arc<Template>, LifecycleError> {
        self.by_name.get(name).cloned().ok_or_else(|| self.unknown(name))
    }

    /// The error for a template that is not there.
    pub(crate) fn unknown(&self, name: &str) -> LifecycleError {
        LifecycleError::UnknownTemplate { name: name.to_owned(), known: self.by_name.keys().cloned().collect() }
    }

    /// The template as it was when it had the image `digest`: what is stored goes on with what it began with.
    pub(crate) fn version(&self, id: &TemplateId, digest: &ImageDigest) -> Result<Arc<Template>, ArtifactError> {
        let current = self.by_name.values().find(|template| template.id == *id && template.image.digest == *digest);
        match (current, &self.artifacts) {
            (Some(template), _) => Ok(Arc::clone(template)),
            (None, Some(artifacts)) => {
                let (image, config) = artifacts.image_of(digest)?;
                Ok(Arc::new(Template { id: id.clone(), image, config: Arc::new(config) }))
            }
            (None, None) => Err(ArtifactError::NoImage { digest: digest.clone(), dir: "".into() }),
        }
    }

    /// User, folders, environment and port of a sandbox's processes: of its own image, or, where that is not here, of
    /// what its template is now.
    pub(crate) fn config_of(&self, id: &TemplateId, digest: Option<&ImageDigest>) -> Option<Arc<ImageConfig>> {
        if let Some(template) = digest.and_then(|digest| self.version(id, digest).ok()) {
            return Some(Arc::clone(&template.config));
        }
        let current = self.by_name.values().find(|template| template.id == *id);
        current.map(|template| Arc::clone(&template.config))
    }

    /// What there is to look images up in.
    pub(crate) fn artifacts(&self) -> Option<&Artifacts> {
        self.artifacts.as_ref()
    }

    pub(crate) fn images(&self) -> Vec<GuestImage> {
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
