//! The task that frees the indices of closed slots. [`crate::Network`] starts it.

use crate::links;
use crate::plan::veth_name;
use crate::shared::Shared;
use std::sync::Arc;
use std::time::Duration;

// Interval at which closed slots are looked at: it begins with the first value and doubles up to the second. Most
// namespaces end within milliseconds, but one that something still holds may take minutes.
const RELEASE_CHECK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Frees the indices whose slot no longer exists.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut pause = RELEASE_CHECK.0;
    loop {
        let waiting: Vec<u32> = shared.indices().releasing().iter().copied().collect();
        // The kernel removes the veth with the namespace, and the namespace with its last process, descriptor and
        // socket. So without a veth, nothing of the previous sandbox is left that could use the slot's address.
        let gone = |index: &u32| links::is_gone(&veth_name(&shared.config.instance, *index));
        let mut released = 0;
        for index in waiting.iter().copied().filter(gone) {
            // Else it is tried again below: elements of the host's table that are left would be the next sandbox's.
            if shared.forget_sandbox(index).await {
                shared.indices().released(index, shared.config.max_slots);
                released += 1;
            }
        }
        if released > 0 {
            shared.refill.notify_one();
        }
        if released == waiting.len() {
            shared.releasing.notified().await;
            pause = RELEASE_CHECK.0;
            continue;
        }
        if tokio::time::timeout(pause, shared.releasing.notified()).await.is_ok() {
            pause = RELEASE_CHECK.0;
        }
        pause = (pause * 2).min(RELEASE_CHECK.1);
    }
}
