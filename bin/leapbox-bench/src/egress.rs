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
//! `run.rs` calls [`run`], which starts this program again with the hidden role `egress`: in namespaces of its own, so that nothing of it meets the machine's network.

mod admission;
mod figures;
mod haproxy;
mod internet;
mod load;
mod measure;
mod netns;
mod nginx;
mod scratch;
mod world;

pub(super) use figures::EgressFigures;

use scratch::Scratch;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// Something on the file system, a socket or a process.
    #[error("{step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A host command failed.
    #[error("`{argv}` failed ({status}): {stderr}")]
    Command {
        /// The whole command.
        argv: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A child said something else than agreed.
    #[error("the {child} process said {said:?}")]
    Child {
        /// Which.
        child: &'static str,
        /// Its words.
        said: String,
    },
    /// A thread of the run panicked.
    #[error("a thread of the run panicked")]
    Thread,
    /// A certificate for the run could not be made.
    #[error("could not make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// A certificate of the run could not be read.
    #[error("could not read the run's certificate or key")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// TLS for the load or the servers could not be set up.
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    /// The load generator that is shared with the gateway's bench could not be set up.
    #[error("could not set up the load generator")]
    Load(#[source] crate::proxy::ProxyError),
    /// The name is none.
    #[error("{name} is no name of a server")]
    Name {
        /// Which.
        name: String,
    },
    /// A measured connection was not answered as it should.
    #[error("a measured connection failed: {why}")]
    Connection {
        /// How.
        why: String,
    },
    /// The stand-in's network could not be made.
    #[error("the network of the stand-ins")]
    Network(#[source] leapbox_network::NetworkError),
    /// The transform's authority could not be made.
    #[error("the authority of the stand-in's sandbox")]
    Authority(#[source] leapbox_network::AuthorityError),
    /// The policy is refused.
    #[error("the policy of the stand-in's sandbox: {problems}")]
    Policy {
        /// Why.
        problems: String,
    },
    /// What was measured could not be handed on.
    #[error("encoding what was measured")]
    Encode(#[source] serde_json::Error),
}

fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> EgressError {
    move |source| EgressError::Io { step, source }
}

/// Measures all ways out. About a minute and a half.
pub(super) fn run() -> Result<EgressFigures, EgressError> {
    let scratch = Scratch::make()?;
    let program = std::env::current_exe().map_err(io("finding this program"))?;
    let output = Command::new(program)
        .args(["egress", "measure", "--scratch"])
        .arg(scratch.folder())
        // The only servers that transforms trust in this run.
        .env("SSL_CERT_FILE", scratch.authority())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(io("running the measurement"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&said).map_err(|_: serde_json::Error| EgressError::Child { child: "measuring", said })
}

/// The hidden role `egress`.
pub fn bench_egress(args: EgressArgs) -> Result<(), EgressError> {
    match args.role {
        Role::Measure { scratch } => {
            let figures = measure::measure(&Scratch::at(scratch))?;
            println!("{}", serde_json::to_string(&figures).map_err(EgressError::Encode)?);
            Ok(())
        }
        Role::Internet { scratch } => internet::serve(&Scratch::at(scratch)),
        Role::Load(args) => load::run(&args),
    }
}
