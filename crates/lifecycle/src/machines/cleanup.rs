//! The clean-up stack of a machine: every host resource that is taken pushes the step that frees it. The steps run in
//! reverse order, once, and are awaited, which `Drop` could not do.

use std::future::Future;
use std::pin::Pin;

/// Makes the future of a step when the step runs.
// A `Vm` is shared between tasks and must be `Sync`. Futures are not; closures over what they are made from are.
type Step = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A stack of clean-up steps. It must be run or disowned; dropping it with steps left is a bug and is logged.
#[derive(Default)]
pub(crate) struct Cleanup {
    steps: Vec<(&'static str, Step)>,
}

impl Cleanup {
    /// Pushes the step that frees a resource, named `what` in logs and for [`Cleanup::skip`].
    pub fn push<F>(&mut self, what: &'static str, step: impl FnOnce() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.steps.push((what, Box::new(|| Box::pin(step()))));
    }

    /// Runs all steps, last pushed first.
    pub async fn run(mut self) {
        // In reverse, because later resources use earlier ones: the VMM holds the disk open and sits in the namespace.
        while let Some((what, step)) = self.steps.pop() {
            tracing::trace!(what, "cleaning up");
            step().await;
        }
    }

    /// Removes the steps named `what`: that resource is kept.
    pub fn skip(&mut self, what: &str) {
        self.steps.retain(|(name, _)| *name != what);
    }

    /// Removes all steps: the next server owns the resources.
    pub fn disown(mut self) {
        self.steps.clear();
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        for (what, _) in &self.steps {
            tracing::warn!(what, "a machine's resource was not freed; the next start of the server frees it");
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
