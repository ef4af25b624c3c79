//! What is among the causes of an error.

use leapbox_db::DbError;
use std::io::ErrorKind;

/// Finds the error of type `E` among `error` and its causes.
pub(super) fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // An error that an iterator of runs returned is inside an I/O error, whose `source` skips it.
        let hidden = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match hidden {
            Some(hidden) => Some(hidden as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Whether the host's disk had no space: for a file, or for the database.
pub(super) fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let no_space = |error: &std::io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    find::<std::io::Error>(error).is_some_and(no_space) || find::<DbError>(error).is_some_and(DbError::is_disk_full)
}
