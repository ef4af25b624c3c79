//! Finds a VMM that is alive and does not answer its control socket any more. Such a machine can neither be paused nor
//! asked for its state, so the drivers kill it.

use crate::error::ExitReason;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// The time between two questions. Answering one costs a VMM about as much as one timer interrupt of its guest.
const PERIOD: Duration = Duration::from_secs(30);
/// A VMM counts as hung after this time without an answer. It is far longer than a busy host delays the answer of a
/// working one, because the sandbox is lost with it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks `answers` in intervals. Returns once there has been no answer for too long.
pub(crate) async fn watch<F>(answers: impl Fn() -> F) -> ExitReason
where
    F: Future<Output = bool>,
{
    watch_with(PERIOD, PATIENCE, answers).await
}

async fn watch_with<F>(period: Duration, patience: Duration, answers: impl Fn() -> F) -> ExitReason
where
    F: Future<Output = bool>,
{
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(period).await;
        // The silence is measured at the question and not at its failure: if this server itself stood still, however
        // long, the VMM is asked once more before it is judged.
        let asked = Instant::now();
        if answers().await {
            last = Instant::now();
        } else if asked.duration_since(last) >= patience {
            return ExitReason::Hung { seconds: last.elapsed().as_secs() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const PERIOD: Duration = Duration::from_millis(5);
    const PATIENCE: Duration = Duration::from_millis(40);

    #[tokio::test(start_paused = true)]
    async fn a_vmm_that_never_answers_is_hung() {
        let told = watch_with(PERIOD, PATIENCE, || async { false }).await;
        assert!(matches!(told, ExitReason::Hung { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_now_and_then_is_not() {
        let asked = AtomicU32::new(0);
        let now_and_then = || async { asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) };
        let told = tokio::time::timeout(4 * PATIENCE, watch_with(PERIOD, PATIENCE, now_and_then)).await;
        assert!(told.is_err(), "it was judged hung");
    }
}
