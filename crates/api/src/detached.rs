//! Work that is finished even when its client hangs up.
//!
//! Every handler that changes something runs its work with [`detached`]; those that only read do not.

use leapbox_api_types::ApiError;
use leapbox_errors::chain;
use std::future::Future;
use tracing::Instrument;

/// Runs `work` in a task of its own and waits for it. A panic in it is logged and answered as an internal error.
pub(crate) async fn detached<T, E>(work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, ApiError>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    // hyper drops a handler's future when its client goes away, at whatever await it has reached. The task goes on, so
    // that no sandbox is left half created or half deleted, and no file half written.
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => {
            tracing::error!(error = %chain(&error), "a request's task panicked or was cancelled");
            Err(ApiError::Internal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_is_finished_after_its_client_has_hung_up() {
        let (go, wait) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let handler = detached(async move {
            let _ = wait.await;
            let _ = tell.send("finished");
            Ok::<_, ApiError>(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(10), handler).await.is_err(), "the client hangs up");
        go.send(()).expect("the work still waits");
        assert_eq!(told.await, Ok("finished"));
    }

    #[tokio::test]
    async fn work_that_panics_is_an_internal_error() {
        let result = detached(async {
            if true {
                panic!("a fault of ours");
            }
            Ok::<(), ApiError>(())
        });
        assert_eq!(result.await, Err(ApiError::Internal));
    }
}
