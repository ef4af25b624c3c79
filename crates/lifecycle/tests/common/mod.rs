//! A server over simulated machines, in a folder of the test's own.

use leapbox_db::{Db, Installation, OrganisationRow};
use leapbox_ids::OrganisationId;
use leapbox_lifecycle::{Lifecycle, StartError, UnknownMachines};
use leapbox_simulated::World;
use leapbox_storage::ServerKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What outlives a server: its folder, and its host.
#[derive(Clone)]
pub struct Stage {
    pub folder: PathBuf,
    pub world: World,
    pub org: OrganisationId,
}

impl Stage {
    /// An empty one in `folder`.
    pub fn new(folder: &Path, world: World) -> Self {
        Self { folder: folder.to_owned(), world, org: OrganisationId::generate() }
    }

    /// Its database.
    pub async fn db(&self) -> Db {
        Db::open(&self.folder.join("leapbox.db")).await.expect("opened")
    }

    /// Makes the database.
    pub async fn prepare(&self) {
        let organisation = OrganisationRow { id: self.org.clone(), name: "test".to_owned(), created_at_ms: 0 };
        let db = self.db().await;
        db.organisation_insert(&organisation).await.expect("inserted");
        let installation = Installation {
            id: "test".to_owned(),
            instance: "0000".to_owned(),
            key_fingerprint: String::new(),
            base_uid: 200_000,
            sequence: 0,
        };
        db.installation_insert(&installation).await.expect("inserted");
    }

    /// A server on what the previous one left.
    pub async fn server(&self) -> Lifecycle {
        self.start(UnknownMachines::Refuse).await.expect("started")
    }

    /// The same, which may be refused.
    pub async fn start(&self, unknown: UnknownMachines) -> Result<Lifecycle, StartError> {
        let db = self.db().await;
        let key = ServerKey::load_or_create(&self.folder.join("key")).expect("a key");
        let catalog = leapbox_simulated::catalog(&db).await;
        let machines = Arc::new(self.world.clone());
        Lifecycle::start_over(machines, "pod-test".to_owned(), db, catalog, key, unknown).await
    }
}
