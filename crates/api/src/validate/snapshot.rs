//! Checks requests to create, restore and list snapshots.

use super::{network, paging};
use crate::fields::Fields;
use leapbox_api_types::ApiError;
use leapbox_api_types::sandbox::{DEFAULT_TIMEOUT_S, TIMEOUT_S_RANGE};
use leapbox_api_types::snapshot::{NewSnapshot, RestoreSnapshot, SNAPSHOT_NAME_MAX, SnapshotListQuery, SnapshotSort};
use leapbox_egress_policy::Cidr;
use serde_json::{Map, Value};

pub(crate) fn create(body: &Map<String, Value>) -> Result<NewSnapshot, ApiError> {
    let mut fields = Fields::new(body);
    let new = NewSnapshot {
        name: fields.name("name", SNAPSHOT_NAME_MAX).map(str::to_owned),
        kill_sandbox_after: fields.flag("kill_sandbox_after"),
    };
    fields.done(new)
}

/// Checks a restore. `private` are the private networks that policies may open on this installation.
pub(crate) fn restore(body: &Map<String, Value>, private: &[Cidr]) -> Result<RestoreSnapshot, ApiError> {
    let mut fields = Fields::new(body);
    if fields.value("snapshot_name").is_none() {
        fields.refuse("snapshot_name", "is required");
    }
    let restore = RestoreSnapshot {
        snapshot_name: fields.name("snapshot_name", SNAPSHOT_NAME_MAX).unwrap_or_default().to_owned(),
        // The contract's default, and not the timeout of the sandbox that the snapshot was taken of.
        timeout_s: fields.integer("timeout", TIMEOUT_S_RANGE).unwrap_or(DEFAULT_TIMEOUT_S),
        auto_pause: fields.flag("auto_pause"),
        network_policy: network::policy(&mut fields, private),
    };
    fields.done(restore)
}

pub(crate) fn list(query: &Map<String, Value>) -> Result<SnapshotListQuery, ApiError> {
    const SORTS: [(&str, SnapshotSort); 2] =
        [("created_at", SnapshotSort::CreatedAt), ("template_id", SnapshotSort::Template)];
    let mut fields = Fields::new(query);
    let checked = SnapshotListQuery {
        name: text_in_name(&mut fields),
        sort: paging::word(&mut fields, "sort", &SORTS).unwrap_or(SnapshotSort::CreatedAt),
        order: paging::order(&mut fields),
        page: paging::page(&mut fields),
        page_size: paging::page_size(&mut fields),
    };
    fields.done(checked)
}

/// Reads the text to look for in names.
fn text_in_name(fields: &mut Fields<'_>) -> Option<String> {
    // The SDK sends an empty one when it looks for nothing.
    let text = fields.text("query").filter(|text| !text.is_empty())?;
    if text.chars().count() > SNAPSHOT_NAME_MAX {
        fields.refuse("query", format!("must be at most {SNAPSHOT_NAME_MAX} characters long"));
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests;
