//! The parts of a run, one after the other.
//!
//! ```text
//! server without a pool: first boot, then floor and restored create in turn, GET, a burst, idle sandboxes
//! server with a pool:    pooled creates
//! server without a pool: floor and wake in turn, pauses of a small and a large machine
//! gateway and nginx:     the same backend through each, in turn
//! ways out of a sandbox: NAT, the egress proxy and a transform, beside haproxy and nginx; policies put in force
//! ```
//!
//! The floor is the same VMM command line on the same snapshot, started by hand without Leapbox around it, until the
//! agent in it has answered the same first command. Servers are real: `leapbox serve`, as processes of their own, with a
//! state folder that is removed afterwards.

use crate::client::Client;
use crate::figures::{Millis, Report, Samples, ms_since};
use crate::floor::Floor;
use crate::server::Server;
use crate::{egress, idle, proxy, sleep};
use anyhow::{Context, Result};
use leapbox::config::Config;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Creates measured one after another, and as many floors beside them.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(3..=1000))]
    runs: u32,
    /// Creates at once.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    burst: u32,
    /// Idle sandboxes whose memory is measured.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=200))]
    idle: u32,
    /// What is measured [default: everything].
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Create, Part::Pool, Part::Sleep, Part::Gateway, Part::Egress])]
    parts: Vec<Part>,
}

/// A part of the bench, with a server of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Without a pool: floor, restored creates, GET, a burst, idle sandboxes.
    Create,
    /// With a pool: pooled creates, a burst.
    Pool,
    /// Without a pool: wakes beside the floor, pauses.
    Sleep,
    /// The gateway beside nginx.
    Gateway,
    /// The ways out of a sandbox, beside haproxy and nginx.
    Egress,
}

/// Clones the pool of the measured server holds in steady use: the default.
const POOL: u32 = 16;
const GETS: u32 = 500;
const POOL_DEADLINE: Duration = Duration::from_secs(120);

pub async fn run(config: &Config, args: &Args) -> Result<()> {
    let report = measure(config, args).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).context("encoding the report")?);
    } else {
        print!("{report}");
    }
    Ok(())
}

async fn measure(config: &Config, args: &Args) -> Result<Report> {
    let mut report = Report::default();
    if args.parts.contains(&Part::Create) {
        eprintln!("a server without a pool: first boot of the shape …");
        with_server(config, 0, async |server| without_pool(config, args, server, &mut report).await).await?;
    }
    if args.parts.contains(&Part::Pool) {
        eprintln!("a server with a pool of {POOL} …");
        with_server(config, POOL, async |server| with_pool(args, server, &mut report).await).await?;
    }
    if args.parts.contains(&Part::Sleep) {
        eprintln!("a server for pauses and wakes …");
        with_server(config, 0, async |server| pause_and_wake(config, args, server, &mut report).await).await?;
    }
    if args.parts.contains(&Part::Gateway) {
        eprintln!("gateway and nginx …");
        report.proxy = Some(spawn_blocking(proxy::run).await?.context("measuring gateway and nginx")?);
    }
    if args.parts.contains(&Part::Egress) {
        eprintln!("ways out of a sandbox, beside haproxy and nginx …");
        let measured = spawn_blocking(egress::run).await?;
        report.egress = Some(measured.context("measuring the ways out of a sandbox")?);
    }
    Ok(report)
}

/// Measures a server, which is ended also when that has failed.
async fn with_server(config: &Config, pool: u32, measure: impl AsyncFnOnce(&Server) -> Result<()>) -> Result<()> {
    let server = Server::start(config, pool).await?;
    let measured = measure(&server).await;
    server.stop().await?;
    measured
}

async fn without_pool(config: &Config, args: &Args, server: &Server, report: &mut Report) -> Result<()> {
    let client = server.client();
    report.cold = Some(create_and_use(&client).await?.first_answer);
    let floor = Floor::open(config, server).await?;
    report.virtualised = floor.is_virtualised();
    let measured = beside_the_floor(args, &floor, &client, report).await;
    floor.close().await?;
    measured?;
    get_a_sandbox(&client, report).await?;
    eprintln!("{} creates at once …", args.burst);
    report.burst_without_pool = burst(args, server).await?;
    eprintln!("{} idle sandboxes …", args.idle);
    idle::measure(args.idle, server, report).await
}

async fn pause_and_wake(config: &Config, args: &Args, server: &Server, report: &mut Report) -> Result<()> {
    let client = server.client();
    create_and_use(&client).await?;
    let floor = Floor::open(config, server).await?;
    report.virtualised = floor.is_virtualised();
    let measured = sleep::wakes(args.runs, &floor, &client, report).await;
    floor.close().await?;
    measured?;
    sleep::pauses(server, report).await
}

async fn beside_the_floor(args: &Args, floor: &Floor, client: &Client, report: &mut Report) -> Result<()> {
    // Once unmeasured: page cache and translation caches of the host.
    floor.once().await?;
    eprintln!("{} floors and restored creates in turn …", args.runs);
    for _ in 0..args.runs {
        report.floor.push(floor.once().await?);
        let timed = create_and_use(client).await?;
        report.restored_create.push(timed.create);
        report.restored_first_answer.push(timed.first_answer);
    }
    Ok(())
}

async fn with_pool(args: &Args, server: &Server, report: &mut Report) -> Result<()> {
    let client = server.client();
    create_and_use(&client).await?;
    for _ in 0..args.runs {
        server.pool_ready(2, POOL_DEADLINE).await?;
        let timed = create_and_use(&client).await?;
        report.pooled_create.push(timed.create);
        report.pooled_first_answer.push(timed.first_answer);
    }
    // The creates so far are the demand that the pool has grown to.
    server.pool_ready(POOL.min(args.runs) - 1, POOL_DEADLINE).await?;
    eprintln!("{} creates at once …", args.burst);
    report.burst = burst(args, server).await?;
    Ok(())
}

/// How long a create took, and how long until the first command's answer, both from the same start.
struct Timed {
    create: Millis,
    first_answer: Millis,
}

async fn create_and_use(client: &Client) -> Result<Timed> {
    let start = Instant::now();
    let id = client.create().await?;
    let create = ms_since(start);
    client.execute(&id, "true").await?;
    let first_answer = ms_since(start);
    client.delete(&id).await?;
    Ok(Timed { create, first_answer })
}

async fn get_a_sandbox(client: &Client, report: &mut Report) -> Result<()> {
    let id = client.create().await?;
    for _ in 0..GETS {
        let start = Instant::now();
        client.get(&id).await?;
        report.get.push(ms_since(start));
    }
    client.delete(&id).await
}

async fn burst(args: &Args, server: &Server) -> Result<Samples> {
    let mut samples = Samples::default();
    let mut creates = tokio::task::JoinSet::new();
    for _ in 0..args.burst {
        let client = server.client();
        creates.spawn(async move {
            let start = Instant::now();
            let id = client.create().await?;
            anyhow::Ok((ms_since(start), id))
        });
    }
    let mut ids = Vec::new();
    while let Some(created) = creates.join_next().await {
        let (elapsed, id) = created.context("a task of the bench was lost")??;
        samples.push(elapsed);
        ids.push(id);
    }
    let client = server.client();
    for id in ids {
        client.delete(&id).await?;
    }
    Ok(samples)
}
