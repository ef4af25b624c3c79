//! A real database in a folder of the test's own.

#![allow(dead_code, reason = "each test file uses a part")]

use leapbox_db::{
    Db, Live, OrganisationRow, Origin, Sandbox, SnapshotRow, Spec, Status, Stored, StoredDisk, StoredMemory,
    TemplateRow, VmRecord,
};
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, OrganisationId, SandboxId, SnapshotId, TemplateId};
use leapbox_vmm::{MachineRecord, Shape};
use std::path::PathBuf;
use std::sync::Arc;

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

pub fn sandbox(organisation: &OrganisationId, template: &TemplateId) -> Sandbox {
    Sandbox {
        spec: Arc::new(spec(organisation, template)),
        status: Status::Creating(None),
        since_ms: 1000,
        launched_at_ms: None,
        reason: None,
    }
}

pub fn spec(organisation: &OrganisationId, template: &TemplateId) -> Spec {
    Spec {
        id: SandboxId::generate(),
        organisation: organisation.clone(),
        template: template.clone(),
        pod_id: "runner-1".to_owned(),
        vcpu: 2,
        memory_mib: 1024,
        disk_mib: 10240,
        timeout_s: 300,
        auto_pause: false,
        created_at_ms: 1000,
        environment: None,
        network_policy: None,
        network_secrets: None,
        egress_ca: None,
    }
}

/// A base and its image, both of this digest.
pub fn origin(byte: u8) -> Origin {
    Origin { base: BaseId::from([byte; 32]), image: ImageDigest::from([byte; 32]) }
}

pub fn live(origin: Origin) -> Live {
    let machine = MachineRecord {
        driver: "qemu".to_owned(),
        pid: 7,
        start_ticks: 8,
        host_boot_id: "boot".to_owned(),
        shape: Shape { vcpus: 2, memory_mib: 1024 },
        name: "vm-1".to_owned(),
        uid: 9,
        dir: "/machines/vm-1".into(),
    };
    Live { vm: VmRecord { machine, slot: 3 }, origin, timeout_at_ms: 5000, timeout_at_boot_ms: Some(4000) }
}

pub fn memory(origin: Origin) -> StoredMemory {
    StoredMemory { checkpoint: CheckpointId::generate(), origin }
}

pub fn disk(origin: Origin) -> StoredDisk {
    StoredDisk { checkpoint: CheckpointId::generate(), image: origin.image }
}

/// Every state, with all that can be in it.
pub fn every_status() -> Vec<Status> {
    vec![
        Status::Creating(None),
        Status::Creating(Some(origin(1))),
        Status::Booting(disk(origin(1))),
        Status::Running(live(origin(1))),
        Status::Snapshotting(live(origin(1))),
        Status::Paused(memory(origin(1))),
        Status::Unpausing(memory(origin(1))),
        Status::Stopping(live(origin(1))),
        Status::Stopped(disk(origin(1))),
        Status::Deleting(None),
        Status::Deleting(Some(Stored::Memory(memory(origin(1))))),
        Status::Deleting(Some(Stored::Disk(disk(origin(1))))),
        Status::Deleted,
    ]
}

pub fn snapshot(organisation: &OrganisationId, template: &TemplateId, name: &str) -> SnapshotRow {
    let Origin { base, image } = origin(10);
    SnapshotRow {
        id: SnapshotId::generate(),
        organisation: organisation.clone(),
        name: name.to_owned(),
        template: template.clone(),
        vcpu: 2,
        memory_mib: 1024,
        disk_mib: 10240,
        checkpoint: CheckpointId::generate(),
        base,
        image,
        environment: None,
        network_policy: None,
        network_secrets: None,
        created_at_ms: 1000,
    }
}
