//! Names of snapshots that are being taken: of two with one name, the later is refused at once and not after a minute.

use leapbox_ids::OrganisationId;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

type Taken = HashSet<(OrganisationId, String)>;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Names(Arc<Mutex<Taken>>);

/// A name that is nobody else's while this lives.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub name: String,
    organisation: OrganisationId,
    names: Arc<Mutex<Taken>>,
}

impl Names {
    /// The name, unless somebody has it now.
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
        let names = Names::default();
        let (one, other) = (OrganisationId::generate(), OrganisationId::generate());
        let reserved = names.reserve(&one, "warm").expect("free");
        assert!(names.reserve(&one, "warm").is_none());
        assert!(names.reserve(&other, "warm").is_some() && names.reserve(&one, "cold").is_some());
        drop(reserved);
        assert!(names.reserve(&one, "warm").is_some());
    }
}
