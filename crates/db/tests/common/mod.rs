//! A real database in a folder of the test's own.

#![allow(dead_code, reason = "each test file uses a part")]

use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::{Db, OrganisationRow, SandboxRow, SnapshotRow, TemplateRow};
use leapbox_ids::{CheckpointId, OrganisationId, SandboxId, SnapshotId, TemplateId};
use std::path::PathBuf;

pub struct Fixture {
    pub db: Db,
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

pub async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("leapbox.db");
    let db = Db::open(&path).await.expect("the database opens");
    Fixture { db, path, _folder: folder }
}

impl Fixture {
    pub async fn organisation(&self, name: &str) -> OrganisationId {
        let row = OrganisationRow { id: OrganisationId::generate(), name: name.to_owned(), created_at_ms: 1 };
        self.db.organisation_insert(&row).await.expect("inserted");
        row.id
    }

    pub async fn template(&self, name: &str) -> TemplateId {
        let row = TemplateRow {
            id: TemplateId::generate(),
            name: name.to_owned(),
            rootfs_digest: "sha256:0".to_owned(),
            created_at_ms: 1,
        };
        self.db.template_insert(&row).await.expect("inserted");
        row.id
    }
}

pub fn sandbox(organisation: &OrganisationId, template: &TemplateId) -> SandboxRow {
    SandboxRow {
        id: SandboxId::generate(),
        organisation: organisation.clone(),
        template: template.clone(),
        pod_id: "runner-1".to_owned(),
        vcpu: 2,
        memory_mib: 1024,
        disk_mib: 10240,
        timeout_s: 300,
        auto_pause: false,
        state: SandboxState::Starting,
        state_reason: None,
        created_at_ms: 1000,
        launched_at_ms: None,
        state_changed_at_ms: 1000,
        timeout_at_ms: None,
        machine: None,
        checkpoint: None,
        base: None,
        image: None,
        environment: None,
        network_policy: None,
        network_secrets: None,
        egress_ca: None,
    }
}

pub fn snapshot(organisation: &OrganisationId, template: &TemplateId, name: &str) -> SnapshotRow {
    SnapshotRow {
        id: SnapshotId::generate(),
        organisation: organisation.clone(),
        name: name.to_owned(),
        template: template.clone(),
        vcpu: 2,
        memory_mib: 1024,
        disk_mib: 10240,
        checkpoint: CheckpointId::generate().to_string(),
        base: "base-1a".to_owned(),
        image: "2b".to_owned(),
        environment: None,
        network_policy: None,
        network_secrets: None,
        created_at_ms: 1000,
    }
}
