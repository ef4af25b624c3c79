//! `leapbox-bench`: this installation beside the floor of its VMM, measured in the same run. Only wires: arguments →
//! configuration → logging → the run (`run.rs`), or one of its processes.
//!
//! ```text
//! no role ─► run.rs       the measurements, one part after the other
//! gateway ─► proxy/       ┐
//! load    ─► proxy/       ├ processes of a run: this program, started again by itself
//! egress  ─► egress/      ┘
//! ```

mod client;
mod egress;
mod figures;
mod floor;
mod idle;
mod nginx;
mod process;
mod proxy;
mod rival;
mod run;
mod scratch;
mod server;
mod sleep;
mod web;

use anyhow::Result;
use clap::{Parser, Subcommand};
use leapbox::config::{Config, Settings};
use leapbox::program::{explain, start_logging};
use process::multi_threaded;
use std::process::ExitCode;

/// Measures Leapbox beside the floor of its VMM, its gateway beside nginx, its egress proxy beside haproxy and nginx.
#[derive(Debug, Parser)]
#[command(name = "leapbox-bench", version, max_term_width = 110, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    args: run::Args,
    #[command(flatten)]
    settings: Settings,
}

/// What a process of a run is, other than the one that measures.
#[derive(Debug, Subcommand)]
enum Role {
    /// A gateway before a fixed address.
    #[command(hide = true)]
    Gateway(proxy::GatewayArgs),
    /// The load generator.
    #[command(hide = true)]
    Load(proxy::LoadArgs),
    /// A process of the bench of the ways out.
    #[command(hide = true)]
    Egress(egress::EgressArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leapbox-bench: {}", explain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let config = Config::load(cli.settings)?;
    start_logging(&config, "warn");
    match cli.role {
        None => multi_threaded()?.block_on(run::run(&config, &cli.args)),
        Some(Role::Gateway(args)) => multi_threaded()?.block_on(proxy::bench_gateway(args)),
        Some(Role::Load(args)) => proxy::bench_load(args),
        Some(Role::Egress(args)) => egress::bench_egress(args),
    }
}
