//! Putting policies in force, with many slots alive, and what that does to the host's rules.

use super::figures::Admissions;
use super::netns::Netns;
use super::world::policy;
use crate::figures::{Samples, ms_since};
use crate::process::parse;
use anyhow::{Context, Result};
use leapbox_network::{HostTable, Network, NetworkConfig, Slot, SlotPolicy};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const SLOTS: u32 = 100;

/// Makes the slots, with real taps, and gives each the largest policy the API takes but for transforms.
pub(super) fn measure(root: &Netns, runtime: &Runtime) -> Result<Admissions> {
    let network = runtime.block_on(start())?;
    let rules_before = rules(root)?;
    let (slots, samples) = runtime.block_on(admit_all(&network))?;
    let rules_after = rules(root)?;
    let count = slots.len();
    runtime.block_on(async {
        for slot in slots {
            slot.close().await;
        }
        network.stop(HostTable::Remove).await.context("ending the network of the policies")
    })?;
    let [p50_ms, p95_ms, max_ms] = [0.5, 0.95, 1.0].map(|share| samples.percentile(share));
    Ok(Admissions { slots: count, p50_ms, p95_ms, max_ms, rules_before, rules_after })
}

async fn start() -> Result<Arc<Network>> {
    let config = NetworkConfig {
        instance: "be9d".to_owned(),
        max_slots: SLOTS,
        prepared: 0,
        dns_upstreams: Some(vec![]),
        link_block: "10.251.0.0/16".parse()?,
        ..NetworkConfig::default()
    };
    Network::start(config).await.context("making the network of the policies")
}

async fn admit_all(network: &Arc<Network>) -> Result<(Vec<Slot>, Samples)> {
    let mut making = JoinSet::new();
    for _ in 0..SLOTS {
        let network = network.clone();
        making.spawn(async move { network.take().await });
    }
    let mut slots = Vec::new();
    while let Some(made) = making.join_next().await {
        slots.push(made.context("a task of the bench was lost")?.context("making a slot")?);
    }
    let policy = policy(&largest())?;
    let mut samples = Samples::default();
    for slot in &slots {
        let admission =
            SlotPolicy { sandbox: format!("bench-{}", slot.index()), policy: policy.clone(), authority: None };
        let begin = Instant::now();
        slot.policy_installer().install(admission).await.context("putting a policy in force")?;
        samples.push(ms_since(begin));
    }
    Ok((slots, samples))
}

/// 50 domains and 10 networks that do not touch.
fn largest() -> Value {
    let domains: Vec<String> = (0..50).map(|n| format!("*.n{n}.example.com")).collect();
    let networks: Vec<String> = (0..10).map(|n| format!("93.{}.0.0/24", 2 * n)).collect();
    json!({"mode": "custom", "allow_domains": domains, "allow_cidrs": networks})
}

/// How many rules the namespace has, whosever they are.
fn rules(netns: &Netns) -> Result<usize> {
    let output = netns.output(Command::new("nft").args(["-j", "list", "ruleset"]))?;
    let all: Value = parse("nft", &output.stdout)?;
    let objects = all["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(objects.iter().filter(|object| object.get("rule").is_some()).count())
}
