//! Seals a sandbox's secrets with the server's key before they are written to the database, and opens them when a
//! machine needs them.
//!
//! Every sealed text is bound to a purpose, so that a row cannot be completed with a secret of another one.
//! Environment and policy are bound to the organisation, because snapshots carry them to other sandboxes. A
//! certificate authority is bound to its sandbox, because a restored sandbox gets its own.

use crate::error::{LifecycleError, SealedError};
use crate::machines::Egress;
use crate::shared::Shared;
use leapbox_db::{Sealed, SnapshotRow, Spec};
use leapbox_egress_policy::Policy;
use leapbox_ids::{OrganisationId, SandboxId};
use leapbox_network::Authority;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The columns of a network policy.
pub(crate) struct SealedEgress {
    /// JSON as the API shows it, without secrets; `None` for `allow-all`.
    pub network_policy: Option<String>,
    /// The whole policy; `None` if it has no secrets.
    pub network_secrets: Option<Sealed>,
    pub egress_ca: Option<Sealed>,
}

impl Shared {
    fn seal(&self, purpose: &str, value: &impl Serialize) -> Result<Sealed, SealedError> {
        let plain = serde_json::to_vec(value)?;
        Ok(Sealed(self.key.seal(purpose, &plain)?))
    }

    fn open<T: DeserializeOwned>(&self, purpose: &str, sealed: &Sealed) -> Result<T, SealedError> {
        let plain = self.key.open(purpose, &sealed.0)?;
        Ok(serde_json::from_slice(&plain)?)
    }

    /// Seals the environment variables of a sandbox of `org`.
    pub fn seal_environment(
        &self,
        org: &OrganisationId,
        environment: &[(String, String)],
    ) -> Result<Sealed, LifecycleError> {
        self.seal(&environment_purpose(org), &environment).map_err(LifecycleError::Seal)
    }

    /// Opens the environment variables of a sandbox.
    pub fn environment_of(&self, spec: &Spec) -> Result<Vec<(String, String)>, LifecycleError> {
        let Some(sealed) = &spec.environment else { return Ok(Vec::new()) };
        self.open(&environment_purpose(&spec.organisation), sealed).map_err(LifecycleError::Environment)
    }

    /// Seals the policy of the new sandbox `id`, and makes a certificate authority for it if the policy has transforms.
    pub fn seal_egress(
        &self,
        org: &OrganisationId,
        id: &SandboxId,
        policy: &Policy,
    ) -> Result<SealedEgress, LifecycleError> {
        let network_policy = (*policy != Policy::AllowAll).then(|| policy.shown().to_string());
        let secrets = policy.has_secrets().then(|| self.seal(&policy_purpose(org), &policy.document()));
        let network_secrets = secrets.transpose().map_err(LifecycleError::Seal)?;
        let egress_ca = if policy.has_transforms() { Some(self.sealed_authority(id)?) } else { None };
        Ok(SealedEgress { network_policy, network_secrets, egress_ca })
    }

    fn sealed_authority(&self, id: &SandboxId) -> Result<Sealed, LifecycleError> {
        let authority = Authority::generate().map_err(LifecycleError::Authority)?;
        let pems = (authority.certificate_pem(), authority.key_pem());
        self.seal(&authority_purpose(id), &pems).map_err(LifecycleError::Seal)
    }

    /// Opens the policy and the certificate authority of a sandbox.
    pub fn egress_of(&self, spec: &Spec) -> Result<Egress, LifecycleError> {
        let (shown, secrets) = (spec.network_policy.as_deref(), spec.network_secrets.as_ref());
        let policy = self.stored_policy(&spec.organisation, shown, secrets).map_err(LifecycleError::Policy)?;
        let policy = Arc::new(policy);
        let Some(sealed) = &spec.egress_ca else { return Ok(Egress { policy, authority: None }) };
        let pems = self.open(&authority_purpose(&spec.id), sealed).map_err(LifecycleError::Policy)?;
        let (certificate, key): (String, String) = pems;
        let authority = Authority::from_pem(&certificate, &key).map_err(LifecycleError::Authority)?;
        Ok(Egress { policy, authority: Some(Arc::new(authority)) })
    }

    /// Opens the policy of a snapshot.
    pub fn policy_of(&self, snapshot: &SnapshotRow) -> Result<Policy, LifecycleError> {
        let (shown, secrets) = (snapshot.network_policy.as_deref(), snapshot.network_secrets.as_ref());
        self.stored_policy(&snapshot.organisation, shown, secrets).map_err(LifecycleError::Policy)
    }

    fn stored_policy(
        &self,
        org: &OrganisationId,
        shown: Option<&str>,
        secrets: Option<&Sealed>,
    ) -> Result<Policy, SealedError> {
        // A policy with secrets is sealed whole: the shown text lacks the header values, and is not authenticated.
        let document = match (secrets, shown) {
            (Some(sealed), _) => self.open(&policy_purpose(org), sealed)?,
            (None, Some(shown)) => serde_json::from_str(shown)?,
            (None, None) => return Ok(Policy::AllowAll),
        };
        Ok(Policy::stored(&document)?)
    }
}

// A sealed value opens only with the purpose that it was sealed with, so these texts must never change.

fn environment_purpose(org: &OrganisationId) -> String {
    format!("environment of a sandbox of {org}")
}

fn policy_purpose(org: &OrganisationId) -> String {
    format!("network policy of a sandbox of {org}")
}

fn authority_purpose(id: &SandboxId) -> String {
    format!("certificate authority of {id}")
}
