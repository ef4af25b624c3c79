//! What is secret in a sandbox's row: sealed with the server's key when it is written, opened when a machine needs it.
//!
//! Environment and policy are bound to the organisation, because snapshots carry them to other sandboxes. A certificate
//! authority is bound to its sandbox: a restored one gets its own.

use crate::error::LifecycleError;
use crate::inner::Inner;
use leapbox_db::{SandboxRow, SnapshotRow};
use leapbox_egress_policy::Policy;
use leapbox_ids::{OrganisationId, SandboxId};
use leapbox_network::Authority;
use std::sync::Arc;

/// A sandbox's way out.
#[derive(Debug, Clone)]
pub(crate) struct Egress {
    pub policy: Arc<Policy>,
    /// Its own certificate authority, if the policy has transforms.
    pub authority: Option<Arc<Authority>>,
}

/// The same as the columns of a row.
pub(crate) struct EgressColumns {
    pub network_policy: Option<String>,
    pub network_secrets: Option<String>,
    pub egress_ca: Option<String>,
}

impl Inner {
    /// A sandbox's environment as its row keeps it.
    pub fn seal_environment(
        &self,
        org: &OrganisationId,
        environment: &[(String, String)],
    ) -> Result<String, LifecycleError> {
        let plain = serde_json::to_vec(environment).map_err(|_| LifecycleError::Environment)?;
        self.key.seal(&environment_of(org), &plain).map_err(|_| LifecycleError::Environment)
    }

    /// The environment of a sandbox from its row.
    pub fn environment_of(&self, row: &SandboxRow) -> Result<Vec<(String, String)>, LifecycleError> {
        let Some(sealed) = &row.environment else { return Ok(Vec::new()) };
        let plain =
            self.key.open(&environment_of(&row.organisation), sealed).map_err(|_| LifecycleError::Environment)?;
        serde_json::from_slice(&plain).map_err(|_| LifecycleError::Environment)
    }

    /// A new sandbox's policy as its row keeps it, with an authority of its own if it needs one.
    pub fn seal_egress(
        &self,
        org: &OrganisationId,
        id: &SandboxId,
        policy: &Policy,
    ) -> Result<EgressColumns, LifecycleError> {
        let shown = (*policy != Policy::AllowAll).then(|| policy.shown().to_string());
        let secrets = policy.has_secrets().then(|| policy.document().to_string());
        let secrets = secrets.map(|document| self.key.seal(&policy_of(org), document.as_bytes())).transpose();
        let authority = if policy.has_transforms() { Some(self.sealed_authority(id)?) } else { None };
        Ok(EgressColumns {
            network_policy: shown,
            network_secrets: secrets.map_err(|_| LifecycleError::Policy)?,
            egress_ca: authority,
        })
    }

    fn sealed_authority(&self, id: &SandboxId) -> Result<String, LifecycleError> {
        let authority = Authority::generate().map_err(LifecycleError::Authority)?;
        let pems = (authority.certificate_pem(), authority.key_pem());
        let plain = serde_json::to_vec(&pems).map_err(|_| LifecycleError::Policy)?;
        self.key.seal(&authority_of(id), &plain).map_err(|_| LifecycleError::Policy)
    }

    /// The way out of a sandbox, from its row.
    pub fn egress_of(&self, row: &SandboxRow) -> Result<Egress, LifecycleError> {
        let (shown, secrets) = (row.network_policy.as_deref(), row.network_secrets.as_deref());
        let policy = Arc::new(self.stored_policy(&row.organisation, shown, secrets)?);
        let Some(sealed) = &row.egress_ca else { return Ok(Egress { policy, authority: None }) };
        let plain = self.key.open(&authority_of(&row.id), sealed).map_err(|_| LifecycleError::Policy)?;
        let (certificate, key): (String, String) =
            serde_json::from_slice(&plain).map_err(|_| LifecycleError::Policy)?;
        let authority = Authority::from_pem(&certificate, &key).map_err(LifecycleError::Authority)?;
        Ok(Egress { policy, authority: Some(Arc::new(authority)) })
    }

    /// The policy a snapshot carries.
    pub fn policy_of(&self, snapshot: &SnapshotRow) -> Result<Policy, LifecycleError> {
        let (shown, secrets) = (snapshot.network_policy.as_deref(), snapshot.network_secrets.as_deref());
        self.stored_policy(&snapshot.organisation, shown, secrets)
    }

    fn stored_policy(
        &self,
        org: &OrganisationId,
        shown: Option<&str>,
        secrets: Option<&str>,
    ) -> Result<Policy, LifecycleError> {
        let document = match (secrets, shown) {
            (Some(sealed), _) => self.key.open(&policy_of(org), sealed).map_err(|_| LifecycleError::Policy)?,
            (None, Some(shown)) => shown.as_bytes().to_vec(),
            (None, None) => return Ok(Policy::AllowAll),
        };
        let document = serde_json::from_slice(&document).map_err(|_| LifecycleError::Policy)?;
        Policy::stored(&document).map_err(|_| LifecycleError::Policy)
    }
}

fn environment_of(org: &OrganisationId) -> String {
    format!("environment of a sandbox of {org}")
}

fn policy_of(org: &OrganisationId) -> String {
    format!("network policy of a sandbox of {org}")
}

fn authority_of(id: &SandboxId) -> String {
    format!("certificate authority of {id}")
}
