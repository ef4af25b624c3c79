//! New sandboxes: from a template, or from a snapshot.

use crate::catalog::Template;
use crate::clock::now_ms;
use crate::error::LifecycleError;
use crate::sandbox::{Beginning, Obtain, Published, sandbox};
use crate::service::Lifecycle;
use crate::view;
use leapbox_api_types::sandbox::{
    DEFAULT_MEMORY_MIB, DEFAULT_TIMEOUT_S, DEFAULT_VCPU, DISK_MIB, NewSandbox, SandboxDetails, SandboxState,
};
use leapbox_api_types::snapshot::RestoreSnapshot;
use leapbox_db::{SandboxRow, SnapshotRow};
use leapbox_egress_policy::Policy;
use leapbox_ids::{OrganisationId, SandboxId, TemplateId};
use leapbox_templates::ImageConfig;
use leapbox_vmm::Shape;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

impl Lifecycle {
    /// Creates a sandbox; returns when it can be used.
    pub async fn create(&self, org: &OrganisationId, new: NewSandbox) -> Result<SandboxDetails, LifecycleError> {
        let started = Instant::now();
        let template = self.inner.catalog.by_name(&new.template_name)?;
        let row = self.new_row(org, &new, &template)?;
        let (machines, of) = (Arc::clone(&self.inner.machines), Arc::clone(&template));
        let obtain: Obtain = Box::new(move |row| {
            let (machines, template) = (Arc::clone(&machines), Arc::clone(&of));
            Box::pin(async move { machines.fresh(&template, shape_of(&row)).await })
        });
        let details = self.begin(row, Arc::clone(&template.config), obtain, Some(new.env_vars)).await?;
        self.inner.stats.created(started.elapsed());
        Ok(details)
    }

    /// Creates a sandbox that goes on from where a snapshot was taken; returns when it can be used.
    pub async fn restore(
        &self,
        org: &OrganisationId,
        restore: RestoreSnapshot,
    ) -> Result<SandboxDetails, LifecycleError> {
        let started = Instant::now();
        let snapshot = self.inner.db.snapshot_by_name(org, &restore.snapshot_name).await?;
        let unknown = || LifecycleError::NoSnapshot { name: restore.snapshot_name.clone() };
        let snapshot = snapshot.ok_or_else(unknown)?;
        let config = self.inner.catalog.config_of(&snapshot.template, Some(&snapshot.image));
        let config = config.ok_or_else(|| self.inner.catalog.unknown(snapshot.template.as_str()))?;
        let row = self.restored_row(&snapshot, &restore)?;
        let (machines, checkpoint) = (Arc::clone(&self.inner.machines), snapshot.checkpoint);
        let obtain: Obtain = Box::new(move |row| {
            let (machines, checkpoint) = (Arc::clone(&machines), checkpoint.clone());
            Box::pin(async move { machines.restored(&row, &checkpoint).await })
        });
        let details = self.begin(row, config, obtain, None).await?;
        self.inner.stats.restored(started.elapsed());
        Ok(details)
    }

    async fn begin(
        &self,
        row: SandboxRow,
        config: Arc<ImageConfig>,
        obtain: Obtain,
        environment: Option<Vec<(String, String)>>,
    ) -> Result<SandboxDetails, LifecycleError> {
        if self.inner.stop.is_cancelled() {
            return Err(LifecycleError::ShuttingDown);
        }
        self.inner.db.sandbox_insert(&row).await?;
        let id = row.id.clone();
        let published = Published::new(row, config);
        let (handle, driver) = sandbox(Arc::clone(&self.inner), published);
        self.inner.remember(id, handle.clone());
        let (ready, created) = oneshot::channel();
        self.inner.tasks.spawn(driver.begin(Beginning { obtain, environment, ready }));
        created.await.map_err(|_| LifecycleError::ShuttingDown)??;
        let details = view::details(&handle.published.borrow().row);
        Ok(details)
    }

    fn new_row(
        &self,
        org: &OrganisationId,
        new: &NewSandbox,
        template: &Template,
    ) -> Result<SandboxRow, LifecycleError> {
        let environment = match new.env_vars.as_slice() {
            [] => None,
            variables => Some(self.inner.seal_environment(org, variables)?),
        };
        let row = self.row(org, &template.id, &new.network_policy)?;
        Ok(SandboxRow {
            vcpu: new.vcpu as u8,
            memory_mib: new.memory_mib as u32,
            timeout_s: new.timeout_s,
            auto_pause: new.auto_pause,
            environment,
            ..row
        })
    }

    /// The checkpoint stays the snapshot's: what is restored from it does not need it any more once it runs.
    fn restored_row(&self, snapshot: &SnapshotRow, restore: &RestoreSnapshot) -> Result<SandboxRow, LifecycleError> {
        let row = match &restore.network_policy {
            Some(policy) => self.row(&snapshot.organisation, &snapshot.template, policy)?,
            None => self.row(&snapshot.organisation, &snapshot.template, &self.inner.policy_of(snapshot)?)?,
        };
        Ok(SandboxRow {
            vcpu: snapshot.vcpu,
            memory_mib: snapshot.memory_mib,
            disk_mib: snapshot.disk_mib,
            timeout_s: restore.timeout_s,
            auto_pause: restore.auto_pause,
            base: Some(snapshot.base.clone()),
            image: Some(snapshot.image.clone()),
            environment: snapshot.environment.clone(),
            ..row
        })
    }

    /// What every new row begins with.
    fn row(&self, org: &OrganisationId, template: &TemplateId, policy: &Policy) -> Result<SandboxRow, LifecycleError> {
        let (id, now) = (SandboxId::generate(), now_ms());
        let egress = self.inner.seal_egress(org, &id, policy)?;
        Ok(SandboxRow {
            id,
            organisation: org.clone(),
            template: template.clone(),
            pod_id: self.inner.pod_id.clone(),
            vcpu: DEFAULT_VCPU as u8,
            memory_mib: DEFAULT_MEMORY_MIB as u32,
            disk_mib: DISK_MIB,
            timeout_s: DEFAULT_TIMEOUT_S,
            auto_pause: false,
            state: SandboxState::Starting,
            state_reason: None,
            created_at_ms: now,
            launched_at_ms: None,
            state_changed_at_ms: now,
            timeout_at_ms: None,
            machine: None,
            checkpoint: None,
            base: None,
            image: None,
            environment: None,
            network_policy: egress.network_policy,
            network_secrets: egress.network_secrets,
            egress_ca: egress.egress_ca,
        })
    }
}

/// The size of a row's machine.
pub(crate) fn shape_of(row: &SandboxRow) -> Shape {
    Shape { vcpus: row.vcpu, memory_mib: row.memory_mib }
}
