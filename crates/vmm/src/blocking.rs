//! Work that blocks, off the runtime's own threads.

use crate::error::VmmError;

/// Runs `work` on a thread that is there for it. Work that nobody waits for any more still comes to its end.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, VmmError> + Send + 'static,
) -> Result<T, VmmError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| VmmError::System { step, source: error.into() })?
}
