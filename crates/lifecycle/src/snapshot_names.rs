//! Names of snapshots that are being taken. Storing a sandbox may take minutes, so the second snapshot of a name is
//! refused when it is asked for, and not by the database's unique index at the end.

use leapbox_ids::OrganisationId;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

type Taken = HashSet<(OrganisationId, String)>;

#[derive(Debug, Default)]
pub(crate) struct SnapshotNames(Arc<Mutex<Taken>>);

/// A reserved name; dropping it frees the name.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub name: String,
    organisation: OrganisationId,
    names: Arc<Mutex<Taken>>,
}

impl SnapshotNames {
    /// Reserves the name in the organisation; `None` if another snapshot of this name is being taken.
    pub fn reserve(&self, organisation: &OrganisationId, name: &str) -> Option<Reserved> {
        let entry = (organisation.clone(), name.to_owned());
        let (organisation, name) = entry.clone();
        self.0.lock().insert(entry).then(|| Reserved { name, organisation, names: Arc::clone(&self.0) })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.names.lock().remove(&(self.organisation.clone(), self.name.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_snapshots_of_an_organisation_at_a_time() {
        let names = SnapshotNames::default();
        let (one, other) = (OrganisationId::generate(), OrganisationId::generate());
        let reserved = names.reserve(&one, "warm").expect("free");
        assert!(names.reserve(&one, "warm").is_none());
        assert!(names.reserve(&other, "warm").is_some() && names.reserve(&one, "cold").is_some());
        drop(reserved);
        assert!(names.reserve(&one, "warm").is_some());
    }
}
