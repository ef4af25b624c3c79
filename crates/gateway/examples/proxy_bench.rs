//! The gateway beside nginx, without the rest of Leapbox: `cargo run --release -p leapbox-gateway --example proxy_bench`.
//! It is the code `leapbox bench` runs, with the two hidden verbs it starts itself by.

use clap::Parser;
use std::time::Duration;

#[path = "../../../bin/leapbox/src/bench/proxy.rs"]
mod proxy;

#[derive(Parser)]
enum Verb {
    Run {
        /// Seconds of one round.
        #[arg(long, default_value_t = 3.0)]
        round: f64,
        /// Rounds for each proxy and each kind of answer.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    BenchGateway(proxy::GatewayArgs),
    BenchLoad(proxy::LoadArgs),
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Verb::parse() {
        Verb::Run { round, rounds } => {
            let options = proxy::ProxyOptions { round: Duration::from_secs_f64(round), rounds };
            println!("{}", serde_json::to_string_pretty(&proxy::run(options).await?)?);
        }
        Verb::BenchGateway(args) => proxy::bench_gateway(args).await?,
        Verb::BenchLoad(args) => proxy::bench_load(args).await?,
    }
    Ok(())
}
