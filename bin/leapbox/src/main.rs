//! `leapbox`: the one command. Only wires: arguments → configuration → logging → the verb.
//!
//! ```text
//! confine ─► leapbox_vmm::confine   (started by `serve` for every VMM: before anything else is set up)
//! setup, serve, doctor, env, keys ─► verbs/<verb>.rs
//! ```

use clap::{Parser, Subcommand};
use leapbox::config::{Config, Settings};
use leapbox::program::{explain, start_logging};
use leapbox::verbs;
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
    start_logging(&config, if matches!(cli.verb, Verb::Serve) { "info" } else { "warn" });
    match cli.verb {
        Verb::Setup(args) => verbs::setup::run(&config, &args)?,
        Verb::Serve => verbs::serve::run(config)?,
        Verb::Doctor(args) => return Ok(verbs::doctor::run(&config, &args)?),
        Verb::Env => verbs::env::run(&config)?,
        Verb::Keys(action) => verbs::keys::run(&config, action)?,
    }
    Ok(ExitCode::SUCCESS)
}
