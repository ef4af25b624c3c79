//! `leapbox`: the one command. Only wires: arguments → configuration → logging → the verb.
//!
//! ```text
//! confine ─► leapbox_vmm::confine   (started by `serve` for every VMM: before anything else is set up)
//! setup, serve, doctor, env, keys ─► verbs/<verb>.rs;  bench ─► bench/
//! ```

mod bench;
mod config;
mod state;
mod verbs;

use clap::{Parser, Subcommand};
use config::{Config, LogFormat, Settings};
use leapbox_errors::causes;
use std::error::Error;
use std::process::ExitCode;

/// A self-hosted sandbox service: microVMs for agents, compatible with the Leap0 API.
#[derive(Debug, Parser)]
#[command(name = "leapbox", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Prepare this host: packages, guest kernel, system template, local CA, first API key. Safe to run again.
    Setup(verbs::setup::Args),
    /// Run the server.
    Serve,
    /// Tell what is used and why, and what is missing and how to get it.
    Doctor(verbs::doctor::Args),
    /// Print the exports that point the official SDK, curl and a browser here: eval "$(leapbox env)"
    Env,
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(verbs::keys::Action),
    /// Measure this server beside the floor of its VMM.
    Bench(bench::Args),
    /// A gateway before a fixed address, for the bench.
    #[command(hide = true)]
    BenchGateway(bench::GatewayArgs),
    /// The bench's load generator.
    #[command(hide = true)]
    BenchLoad(bench::LoadArgs),
    /// A process of the bench of the ways out.
    #[command(hide = true)]
    BenchEgress(bench::EgressArgs),
}

fn main() -> ExitCode {
    // On the way of every sandbox's start: nothing may come before it.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "confine") {
        leapbox_vmm::confine::main();
    }
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("leapbox: {}", explain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Box<dyn Error>> {
    let config = Config::load(cli.settings)?;
    start_logging(&config, matches!(cli.verb, Verb::Serve));
    match cli.verb {
        Verb::Setup(args) => verbs::setup::run(&config, &args)?,
        Verb::Serve => verbs::serve::run(config)?,
        Verb::Doctor(args) => return Ok(verbs::doctor::run(&config, &args)?),
        Verb::Env => verbs::env::run(&config)?,
        Verb::Keys(action) => verbs::keys::run(&config, action)?,
        Verb::Bench(args) => bench::run(&config, &args)?,
        Verb::BenchGateway(args) => bench::run_gateway(args)?,
        Verb::BenchLoad(args) => bench::run_load(args)?,
        Verb::BenchEgress(args) => bench::run_egress(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Logs go to standard error; `LEAPBOX_LOG` filters them (`info`, `leapbox_network=debug`, …).
fn start_logging(config: &Config, serves: bool) {
    let default = if serves { "info" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("LEAPBOX_LOG").unwrap_or_else(|_| default.into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

/// An error and its causes for the person at the terminal, each on a line of its own.
fn explain(error: &dyn Error) -> String {
    let lines: Vec<String> = causes(error).map(ToString::to_string).collect();
    lines.join("\n  because: ")
}
