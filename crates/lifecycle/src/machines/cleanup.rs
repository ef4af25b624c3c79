//! Host resources taken, and how to give each back: last taken, first returned, once, and awaited.

use std::future::Future;
use std::pin::Pin;

/// Makes the future when its turn comes: a future need not be `Sync`, what it is made from is.
type Step = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What has to be undone. Must be run; dropping it with steps left is a fault and is logged.
#[derive(Default)]
pub(crate) struct Cleanup {
    steps: Vec<(&'static str, Step)>,
}

impl Cleanup {
    /// Adds what undoes the step that has just succeeded.
    pub fn push<F>(&mut self, what: &'static str, step: impl FnOnce() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.steps.push((what, Box::new(|| Box::pin(step()))));
    }

    /// Undoes everything, in reverse.
    pub async fn run(mut self) {
        while let Some((what, step)) = self.steps.pop() {
            tracing::trace!(what, "cleaning up");
            step().await;
        }
    }

    /// Leaves one thing as it is.
    pub fn skip(&mut self, what: &str) {
        self.steps.retain(|(name, _)| *name != what);
    }

    /// Forgets everything: another process is to own it.
    pub fn disown(mut self) {
        self.steps.clear();
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        for (what, _) in &self.steps {
            tracing::warn!(what, "not cleaned up; the next start of the server will");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn what_was_taken_last_is_returned_first() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut cleanup = Cleanup::default();
        for name in ["slot", "disk", "machine"] {
            let order = Arc::clone(&order);
            cleanup.push(name, move || async move { order.lock().expect("not poisoned").push(name) });
        }
        cleanup.run().await;
        assert_eq!(*order.lock().expect("not poisoned"), vec!["machine", "disk", "slot"]);
    }
}
