//! `leapbox`, the one command. It only connects: arguments → configuration → logging → the verb.
//!
//! ```text
//! confine ─► leapbox_vmm::confine   (started by `serve` for every QEMU, before anything else is set up)
//! setup, serve, doctor, env, gc, keys ─► verbs/<verb>.rs
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
    /// Run the server until SIGTERM or SIGINT. Sandboxes keep running after it.
    Serve(verbs::serve::Args),
    /// Report what this host uses and why, and what is missing and how to get it. Changes nothing.
    Doctor(verbs::doctor::Args),
    /// Print the exports that point the official SDK, curl and a browser here: eval "$(leapbox env)"
    Env(verbs::env::Args),
    /// Show what is stored and nothing names any more, let a large part of it be set aside, or remove it now.
    Gc(verbs::gc::Args),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(verbs::keys::Action),
}

fn main() -> ExitCode {
    // Every QEMU is started through this, so nothing may come before it: each millisecond here is one of a create.
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
    // The other verbs print their own report, in which the libraries' progress lines would be noise.
    start_logging(&config, if matches!(cli.verb, Verb::Serve(_)) { "info" } else { "warn" });
    match cli.verb {
        Verb::Setup(args) => verbs::setup::run(&config, &args)?,
        Verb::Serve(args) => verbs::serve::run(config, args)?,
        Verb::Doctor(args) => return Ok(verbs::doctor::run(&config, &args)?),
        Verb::Env(args) => verbs::env::run(&config, &args)?,
        Verb::Gc(args) => verbs::gc::run(&config, &args)?,
        Verb::Keys(action) => verbs::keys::run(&config, action)?,
    }
    Ok(ExitCode::SUCCESS)
}
