//! What is plugged into a machine's two network devices. The lab's fake internet answers.

use crate::pause::{assert_echoes, connect, echo_server};
use crate::rig::conform;
use crate::waiting::{PATIENCE, within};
use leapbox_guest_protocol::net::{WORKLOAD_GATEWAY, WORKLOAD_GUEST, WORKLOAD_GUEST_MAC, mac_string};

/// A web server of the lab that tells who asked; a name for it.
const WEB: &str = "example.com";
const WEB_ADDRESS: &str = "93.184.216.34";

#[test]
fn a_guest_has_its_address_and_hardware_address_and_does_not_see_the_channel() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        assert_eq!(vm.sh("cat /sys/class/net/eth0/address").await.trim(), mac_string(WORKLOAD_GUEST_MAC));
        let addresses = vm.sh("ip -4 -o addr show dev eth0").await;
        assert!(addresses.contains(&format!("inet {WORKLOAD_GUEST}/30 ")), "{addresses}");
        assert!(vm.sh("ip route show default").await.contains(&format!("via {WORKLOAD_GATEWAY} ")));
        // The agent answered through it, from the one address the slot's rules let through.
        assert_eq!(vm.root("ls /sys/class/net | tr '\\n' ' '").await, "eth0 lo ");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: e2e test_network"]
fn a_clones_first_traffic_gets_through_by_address_and_by_name() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        for host in [WEB_ADDRESS, WEB] {
            let told = vm.sh(&format!("curl --silent --show-error --max-time 20 http://{host}/who")).await;
            assert!(told.contains("\"path\": \"/who\""), "{told}");
        }
        assert_eq!(vm.sh("curl -s --max-time 20 http://example.com/bytes/2000000 | wc -c").await, "2000000\n");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: e2e test_faults, test_life"]
fn a_server_in_a_guest_is_reached_again_after_a_restore_and_so_is_the_internet() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        assert_echoes(&mut echo_server(&vm).await, "before").await;
        let taken = rig.take_snapshot(&vm).await;
        vm.machine.destroy().await.expect("it is destroyed");
        let clone = rig.wake(&taken).await;
        assert_echoes(&mut connect(&clone).await, "after").await;
        let ask = clone.sh("curl --silent --show-error --max-time 20 http://example.com/");
        assert!(within(PATIENCE, "an answer of the internet's", ask).await.contains("example.com"));
    });
}
