//! Many slots one after the other leave nothing behind. Alone in its process, because it counts descriptors.

mod support;

use leapbox_network::{HostTable, Network, NetworkConfig};
use support::{config, eventually, in_world, slot_veths};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("own descriptors").count()
}

fn rules() -> usize {
    support::run("nft", "-a list ruleset").matches("# handle").count()
}

#[test]
fn case_50_a_hundred_takes_and_closes_leave_no_link_descriptor_or_rule() {
    in_world(|_world| async {
        let network = Network::start(NetworkConfig { prepared: 4, ..config() }).await.expect("network");
        network.start_pool();
        for _ in 0..4 {
            network.take().await.expect("warm up").close().await;
        }
        let settled = |stats: &leapbox_network::NetworkStats| stats.prepared == 4 && stats.releasing == 0;
        eventually("settled", || network.stats(), settled).await;
        let (before, rules_before) = (descriptors(), rules());
        for _ in 0..25 {
            let mut slots = vec![];
            for _ in 0..4 {
                slots.push(network.take().await.expect("slot"));
            }
            assert_eq!(rules(), rules_before, "the host's rules do not grow with its slots");
            for slot in slots {
                slot.close().await;
            }
        }
        eventually("settled", || network.stats(), settled).await;
        eventually("descriptors", descriptors, |now| *now <= before).await;
        assert_eq!((slot_veths().len(), rules()), (4, rules_before));
        network.stop(HostTable::Remove).await.expect("stop");
        assert_eq!((slot_veths().len(), rules()), (0, 0));
    });
}
