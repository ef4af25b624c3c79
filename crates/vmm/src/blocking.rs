//! Runs blocking work of this crate (files, /proc, hashing) outside the async runtime's worker threads.

use crate::error::VmmError;

/// Runs `work` on tokio's pool of blocking threads. `step` names it in the error if it panics or the runtime shuts
/// down.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, VmmError> + Send + 'static,
) -> Result<T, VmmError> {
    // Blocking tasks cannot be aborted: if the caller is dropped, `work` still runs to its end.
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| VmmError::System { step, source: error.into() })?
}
