//! Takes three slots, keeps two more ready, says so, and holds them until it is killed. For tests of what a killed
//! server leaves behind. Works on the network namespace it is started in.

use leapbox_network::{Network, NetworkConfig};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), leapbox_network::NetworkError> {
    let config =
        NetworkConfig { instance: "7e57".into(), prepared: 2, dns_upstreams: Some(vec![]), ..NetworkConfig::default() };
    let network = Network::start(config).await?;
    let _slots = [network.take().await?, network.take().await?, network.take().await?];
    network.start_pool();
    while network.stats().prepared < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("ready");
    std::future::pending().await
}
