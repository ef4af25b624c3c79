//! The templates this server can make sandboxes from, and the images that stored sandboxes were made from.

use crate::clock::now_ms;
use crate::error::{LifecycleError, StartError};
use leapbox_db::{Db, TemplateRow};
use leapbox_ids::{ImageDigest, TemplateId};
use leapbox_templates::{ArtifactError, Artifacts, ImageConfig};
use leapbox_vmm::GuestImage;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A template with one guest image of it. Stored sandboxes keep using the image they began with after a rebuild.
#[derive(Debug)]
pub struct Template {
    pub id: TemplateId,
    pub image: GuestImage,
    /// User, directories, environment and port of its processes, from the image's configuration.
    pub config: Arc<ImageConfig>,
}

impl Template {
    /// An error unless the image's files are there. A server reads them at every launch, and somebody may move them while
    /// it runs.
    pub(crate) fn check_files(&self) -> Result<(), LifecycleError> {
        let GuestImage { kernel, initramfs, rootfs, digest: _ } = &self.image;
        match [kernel, initramfs, rootfs].into_iter().find(|file| !file.is_file()) {
            Some(file) => Err(LifecycleError::ImageMissing { file: file.clone() }),
            None => Ok(()),
        }
    }
}

/// The templates by name, and the images on disk.
#[derive(Debug, Default)]
pub struct Catalog {
    by_name: BTreeMap<String, Arc<Template>>,
    /// `None` over simulated machines, which boot no images.
    artifacts: Option<Artifacts>,
}

impl Catalog {
    /// Reads the templates that `leapbox setup` has built; a template keeps its id over rebuilds.
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

    /// A catalog of one template and no images on disk, for tests over simulated machines.
    pub async fn of_one(db: &Db, name: &str, image: GuestImage, config: ImageConfig) -> Result<Self, StartError> {
        let id = template_id(db, name, image.digest.as_str()).await?;
        let template = Arc::new(Template { id, image, config: Arc::new(config) });
        Ok(Self { by_name: BTreeMap::from([(name.to_owned(), template)]), artifacts: None })
    }

    pub(crate) fn by_name(&self, name: &str) -> Result<Arc<Template>, LifecycleError> {
        self.by_name.get(name).cloned().ok_or_else(|| self.unknown(name))
    }

    /// The error for an unknown template. It lists the known names, because a misspelt name is the usual reason.
    pub(crate) fn unknown(&self, name: &str) -> LifecycleError {
        LifecycleError::UnknownTemplate { name: name.to_owned(), known: self.by_name.keys().cloned().collect() }
    }

    /// The template with the image `digest`, which may be an earlier one than it has now: a stored sandbox's memory and
    /// disk fit only the image it began with.
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

    /// The configuration of the image `digest`; if that image is not on this host, of the template's current image.
    /// `None` if the template is unknown.
    pub(crate) fn config_of(&self, id: &TemplateId, digest: Option<&ImageDigest>) -> Option<Arc<ImageConfig>> {
        if let Some(template) = digest.and_then(|digest| self.version(id, digest).ok()) {
            return Some(Arc::clone(&template.config));
        }
        // The image may still be in the bucket and is fetched when the sandbox wakes; users and directories rarely
        // change between builds, and a sandbox without any configuration could not be served at all.
        let current = self.by_name.values().find(|template| template.id == *id);
        current.map(|template| Arc::clone(&template.config))
    }

    pub(crate) fn artifacts(&self) -> Option<&Artifacts> {
        self.artifacts.as_ref()
    }

    pub(crate) fn images(&self) -> Vec<GuestImage> {
        self.by_name.values().map(|template| template.image.clone()).collect()
    }
}

async fn template_id(db: &Db, name: &str, digest: &str) -> Result<TemplateId, StartError> {
    // A rebuild must keep the id: sandboxes and snapshots refer to the template by it.
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
