//! A look at a directory of archives before the store is opened and before anything in it is changed: `serve` compares
//! with it what the database knows of the archives, and refuses to start with a database that is older than they are.

use super::{StoreError, local};
use crate::archive::{ArchiveError, MANIFEST, Manifest, Stamp, read_manifest};
use crate::key::{FINGERPRINT_LENGTH, ServerKey};
use crate::strict_hex;
use leapbox_errors::chain;
use leapbox_ids::ArchiveId;
use std::collections::BTreeSet;
use std::path::Path;

/// What a directory of archives has, by names and manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// All archives, also those whose manifests cannot be read.
    pub archives: usize,
    /// Those of them that are checkpoints by their names.
    pub checkpoints: usize,
    /// The stamp with the highest number. Stamps of the own installation come before all others, whose numbers are from
    /// another count. None without a key, because no stamp can be authenticated then.
    pub newest: Option<Stamp>,
    /// The ids of other installations in stamps; of all installations, if the own id is not known.
    pub other_installations: BTreeSet<String>,
    /// The fingerprints of other keys in manifests, which are not authenticated; of all keys, if there is no key.
    pub other_keys: BTreeSet<String>,
    /// Archives whose manifests are missing, damaged, of a later version, or cannot be read from the disk.
    pub unreadable: usize,
}

/// What the manifest of one archive says.
enum Said {
    Stamp(Option<Stamp>),
    OtherKey(String),
    Unreadable(ArchiveError),
}

/// Surveys the directory `dir`; one that does not exist has no archives. Manifests are authenticated with `key`; `own`
/// is the id of the own installation. Read-only and blocking; it fails if `dir` cannot be listed.
pub fn survey(dir: &Path, key: Option<&ServerKey>, own: Option<&str>) -> Result<Survey, StoreError> {
    let mut survey = Survey::default();
    if std::fs::symlink_metadata(dir).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(survey);
    }
    for name in local::names(dir)? {
        survey.archives += 1;
        survey.checkpoints += usize::from(matches!(name.parse::<ArchiveId>(), Ok(ArchiveId::Checkpoint(_))));
        match said(&dir.join(&name), &name, key) {
            Said::Stamp(Some(stamp)) => survey.add(stamp, own),
            Said::Stamp(None) => {}
            Said::OtherKey(fingerprint) => {
                survey.other_keys.insert(fingerprint);
            }
            Said::Unreadable(error) => {
                tracing::warn!(archive = name, error = %chain(&error), "a stored archive's manifest cannot be used");
                survey.unreadable += 1;
            }
        }
    }
    Ok(survey)
}

fn said(dir: &Path, name: &str, key: Option<&ServerKey>) -> Said {
    let text = match read_manifest(dir) {
        Ok(text) => text,
        Err(error) => return Said::Unreadable(error),
    };
    let path = dir.join(MANIFEST);
    let found = match key {
        Some(key) => match Manifest::decode(&text, name, key, &path) {
            Ok(manifest) => return Said::Stamp(manifest.stamp),
            Err(ArchiveError::OtherKey { found, .. }) => found,
            Err(error) => return Said::Unreadable(error),
        },
        None => match Manifest::fingerprint(&text, &path) {
            Ok(found) => found,
            Err(error) => return Said::Unreadable(error),
        },
    };
    // Nothing else is kept of a manifest that is not authentic: a planted one could have a text of a mebibyte here.
    match strict_hex::decode(&found) {
        Some(bytes) if bytes.len() == FINGERPRINT_LENGTH => Said::OtherKey(found),
        _ => Said::Unreadable(ArchiveError::ManifestDamaged { path }),
    }
}

impl Survey {
    fn add(&mut self, stamp: Stamp, own: Option<&str>) {
        if own != Some(stamp.installation.as_str()) {
            self.other_installations.insert(stamp.installation.clone());
        }
        let rank = |stamp: &Stamp| (own == Some(stamp.installation.as_str()), stamp.sequence);
        if self.newest.as_ref().is_none_or(|newest| rank(newest) < rank(&stamp)) {
            self.newest = Some(stamp);
        }
    }
}
