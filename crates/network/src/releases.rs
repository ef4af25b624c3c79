//! The task of a network that frees indices. Started by [`crate::Network`].

use crate::links;
use crate::plan::veth_name;
use crate::shared::Shared;
use std::sync::Arc;
use std::time::Duration;

/// How often a slot that is being released is looked at, at first and at last.
const RELEASE_CHECK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Frees indices whose veth is gone: then no process and no socket is left in the namespace.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut pause = RELEASE_CHECK.0;
    loop {
        let waiting: Vec<u32> = shared.stock().releasing().iter().copied().collect();
        let gone = |index: &u32| links::is_gone(&veth_name(&shared.config.instance, *index));
        let released: Vec<u32> = waiting.iter().copied().filter(gone).collect();
        for index in &released {
            if shared.evict(*index).await {
                shared.stock().released(*index, shared.config.max_slots);
            }
        }
        if !released.is_empty() {
            shared.refill.notify_one();
        }
        if released.len() == waiting.len() {
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
