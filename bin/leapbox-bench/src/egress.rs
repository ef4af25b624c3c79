//! The ways out of a sandbox, each beside a plain proxy that does the nearest equivalent, in the same run.
//!
//! ```text
//!   stand-ins (a namespace each)           root (a namespace of the run's own)          internet (a namespace)
//!  ┌────────────────────────────┐         ┌───────────────────────────────────┐       ┌────────────────────────┐
//!  │ load ── slot, allow-all    ┼── veth ─┼─ NAT ─────────────────────────────┼─ veth ┼─ hello: reads a        │
//!  │ load ── slot, custom ──────┼─────────┼─ Leapbox's egress proxy ──────────┼───────┼─ ClientHello, answers  │
//!  │ load ── plain ─────────────┼── veth ─┼─ NAT, or haproxy, or nginx ───────┼───────┼─ HTTPS; names          │
//!  └────────────────────────────┘         └───────────────────────────────────┘       └────────────────────────┘
//! ```
//!
//! A namespace stands in for the guest, because a guest under emulation would be all there is to see; everything from
//! the slot's `tap0` on is what a sandbox has. Both sides of a comparison have the same number of hops, and what is
//! behind SNI is no TLS server but one that answers a ClientHello with bytes, so that no handshake hides what a proxy
//! costs. Rounds alternate, and a ratio is the median of the rounds' ratios.
//!
//! `run.rs` calls [`run`], which starts this program again with the hidden role `egress`: in namespaces of
//! its own, so that nothing of it meets the machine's network.

mod admission;
mod figures;
mod haproxy;
mod internet;
mod load;
mod measure;
mod netns;
mod nginx;
mod world;

pub(super) use figures::EgressFigures;

use crate::process::{parse, this_program};
use crate::scratch::Scratch;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Stdio;

/// The name that is passed through.
const OPAQUE: &str = "bench.example";
/// The name that has a transform.
const TRANSFORMED: &str = "transform.example";

/// Arguments of the role `egress`.
#[derive(Debug, clap::Args)]
pub struct EgressArgs {
    #[command(subcommand)]
    role: Role,
}

/// What a process of the run is.
#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Makes the namespaces, has the proxy in it, and measures.
    Measure {
        /// The folder of the run.
        #[arg(long)]
        scratch: PathBuf,
    },
    /// The servers out there.
    Internet {
        /// The folder of the run.
        #[arg(long)]
        scratch: PathBuf,
    },
    /// The load generator.
    Load(load::Args),
}

/// Measures all ways out. About a minute and a half.
pub(super) fn run() -> Result<EgressFigures> {
    let scratch = Scratch::make("egress", &[TRANSFORMED])?;
    let output = this_program()?
        .args(["egress", "measure", "--scratch"])
        .arg(scratch.folder())
        // The only servers that transforms trust in this run.
        .env("SSL_CERT_FILE", scratch.authority())
        .stderr(Stdio::inherit())
        .output()
        .context("running the measurement")?;
    parse("measuring", &output.stdout)
}

/// The hidden role `egress`.
pub fn bench_egress(args: EgressArgs) -> Result<()> {
    match args.role {
        Role::Measure { scratch } => {
            let figures = measure::measure(&Scratch::at(scratch))?;
            println!("{}", serde_json::to_string(&figures)?);
            Ok(())
        }
        Role::Internet { scratch } => internet::serve(&Scratch::at(scratch)),
        Role::Load(args) => load::run(&args),
    }
}
