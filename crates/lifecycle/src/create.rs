//! Creates sandboxes from a template or a snapshot: makes the row, starts the sandbox's task, and waits until it runs.

use crate::clock::now_ms;
use crate::error::LifecycleError;
use crate::handle::Published;
use crate::sandbox::{LaunchPlan, MachineSource, new_task};
use crate::service::Lifecycle;
use crate::view;
use leapbox_api_types::sandbox::{DISK_MIB, NewSandbox, SandboxDetails};
use leapbox_api_types::snapshot::RestoreSnapshot;
use leapbox_db::{Origin, Sandbox, SnapshotRow, Spec, Status, Stored, StoredMemory};
use leapbox_ids::{OrganisationId, SandboxId, TemplateId};
use leapbox_templates::ImageConfig;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

impl Lifecycle {
    /// Creates a sandbox from a template; returns when it can be used.
    pub async fn create(&self, org: &OrganisationId, new: NewSandbox) -> Result<SandboxDetails, LifecycleError> {
        let started = Instant::now();
        let template = self.shared.catalog.by_name(&new.template_name)?;
        let spec = self.new_spec(org, &template.id, &new)?;
        let config = Arc::clone(&template.config);
        let source = MachineSource::Template(template);
        let details = self.begin(spec, None, config, source, Some(new.env_vars)).await?;
        self.shared.stats.created(started.elapsed());
        Ok(details)
    }

    /// Creates a sandbox that continues from where a snapshot was taken; returns when it can be used.
    pub async fn restore(
        &self,
        org: &OrganisationId,
        restore: RestoreSnapshot,
    ) -> Result<SandboxDetails, LifecycleError> {
        let started = Instant::now();
        let snapshot = self.shared.db.snapshot_by_name(org, &restore.snapshot_name).await?;
        let unknown = || LifecycleError::NoSnapshot { name: restore.snapshot_name.clone() };
        let snapshot = snapshot.ok_or_else(unknown)?;
        let config = self.shared.catalog.config_of(&snapshot.template, Some(&snapshot.image));
        let config = config.ok_or_else(|| self.shared.catalog.unknown(snapshot.template.as_str()))?;
        let spec = self.restored_spec(&snapshot, &restore)?;
        let origin = Origin { base: snapshot.base, image: snapshot.image };
        // The checkpoint stays the snapshot's: once the sandbox runs, it needs only the base and the image, which its
        // own row names. If the snapshot is deleted before that, the restore fails.
        let stored = StoredMemory { checkpoint: snapshot.checkpoint, origin: origin.clone() };
        let source = MachineSource::Stored(Stored::Memory(stored));
        let details = self.begin(spec, Some(origin), config, source, None).await?;
        self.shared.stats.restored(started.elapsed());
        Ok(details)
    }

    async fn begin(
        &self,
        spec: Spec,
        origin: Option<Origin>,
        config: Arc<ImageConfig>,
        source: MachineSource,
        environment: Option<Vec<(String, String)>>,
    ) -> Result<SandboxDetails, LifecycleError> {
        // Its task would end before it has a machine, and the row would stay until the next start.
        if self.shared.stop.is_cancelled() {
            return Err(LifecycleError::ShuttingDown);
        }
        let (id, since_ms) = (spec.id.clone(), spec.created_at_ms);
        let status = Status::Creating(origin);
        let new = Sandbox { spec: Arc::new(spec), status, since_ms, launched_at_ms: None, reason: None };
        // The row comes first: whatever the host makes for the sandbox from here on is found by recovery if the server
        // dies.
        self.shared.db.sandbox_insert(&new).await?;
        let (handle, task) = new_task(Arc::clone(&self.shared), Published::new(new, Some(config)));
        self.shared.register(id, handle.clone());
        let (ready, created) = oneshot::channel();
        // The task, and not this future, obtains the machine: a client that hangs up leaves no half-made sandbox.
        self.shared.tasks.spawn(task.begin(LaunchPlan { source, environment, ready }));
        created.await.map_err(|_: oneshot::error::RecvError| LifecycleError::ShuttingDown)??;
        let details = view::details(&handle.published.borrow().sandbox);
        Ok(details)
    }

    fn new_spec(&self, org: &OrganisationId, template: &TemplateId, new: &NewSandbox) -> Result<Spec, LifecycleError> {
        let id = SandboxId::generate();
        // Sealed before anything is stored: the database never has a variable in the clear.
        let environment = match new.env_vars.as_slice() {
            [] => None,
            variables => Some(self.shared.seal_environment(org, variables)?),
        };
        let egress = self.shared.seal_egress(org, &id, &new.network_policy)?;
        Ok(Spec {
            id,
            organisation: org.clone(),
            template: template.clone(),
            pod_id: self.shared.pod_id.clone(),
            vcpu: new.vcpu as u8,
            memory_mib: new.memory_mib as u32,
            disk_mib: DISK_MIB,
            timeout_s: new.timeout_s,
            auto_pause: new.auto_pause,
            created_at_ms: now_ms(),
            environment,
            network_policy: egress.network_policy,
            network_secrets: egress.network_secrets,
            egress_ca: egress.egress_ca,
        })
    }

    fn restored_spec(&self, snapshot: &SnapshotRow, restore: &RestoreSnapshot) -> Result<Spec, LifecycleError> {
        let (id, org) = (SandboxId::generate(), &snapshot.organisation);
        // Sealed anew in both cases: the new sandbox gets a certificate authority of its own, because an authority is
        // trusted by one sandbox alone (case 25).
        let egress = match &restore.network_policy {
            Some(policy) => self.shared.seal_egress(org, &id, policy)?,
            None => self.shared.seal_egress(org, &id, &self.shared.policy_of(snapshot)?)?,
        };
        Ok(Spec {
            id,
            organisation: org.clone(),
            template: snapshot.template.clone(),
            pod_id: self.shared.pod_id.clone(),
            vcpu: snapshot.vcpu,
            memory_mib: snapshot.memory_mib,
            disk_mib: snapshot.disk_mib,
            timeout_s: restore.timeout_s,
            auto_pause: restore.auto_pause,
            created_at_ms: now_ms(),
            environment: snapshot.environment.clone(),
            network_policy: egress.network_policy,
            network_secrets: egress.network_secrets,
            egress_ca: egress.egress_ca,
        })
    }
}
