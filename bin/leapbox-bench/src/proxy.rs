//! The gateway beside nginx: two TLS reverse proxies to the same application, in the same run.
//!
//! ```text
//!   this process            children, each a process of its own
//!   ┌──────────────┐        ┌──────────────┐        ┌───────────────────┐
//!   │ application  │◄───────│ gateway, or  │◄──TLS──│ load: 16 kept     │
//!   │ (own thread) │        │ nginx        │        │ connections       │
//!   └──────────────┘        └──────────────┘        └───────────────────┘
//! ```
//! Everything is on loopback and shares the machine's cores, for both alike. Rounds alternate between the two, so that
//! a drift of the machine falls on both, and the ratio is the median of the rounds' ratios. Besides the rate, the
//! processor time each proxy used is read from /proc, which no load generator can blur. The gateway runs as it does in
//! `serve`, key check over the real key table included; only the lookup of the sandbox is a fixed address.
//!
//! `run.rs` calls [`run`]; it starts this program again with the hidden roles `gateway` ([`bench_gateway`]) and `load`
//! ([`bench_load`]).

mod application;
mod children;
mod gateway;
pub mod load;
mod nginx;

pub use gateway::{GatewayArgs, bench_gateway};
pub use load::{LoadArgs, bench_load};

use crate::rival::Rival;
use application::Application;
use children::{Proxy, load_once, start_gateway};
use leapbox_errors::chain;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Kept connections of the load generator.
const CONNECTIONS: usize = 16;

/// How long and how often to measure.
#[derive(Debug, Clone, Copy)]
pub struct ProxyOptions {
    /// Of one round, for one proxy and one kind of answer.
    pub round: Duration,
    /// Rounds for each.
    pub rounds: usize,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self { round: Duration::from_secs(3), rounds: 5 }
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct ProxyFigures {
    /// nginx's version, or why there is nothing to compare with.
    pub nginx: String,
    /// Answers of 128 bytes.
    pub small: Comparison,
    /// Answers of 1 MiB.
    pub bulk: Comparison,
}

/// One kind of answer, over both proxies. nginx's side is absent where nginx is.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Bytes of one answer.
    pub answer_bytes: usize,
    /// The gateway's medians.
    pub gateway: Figures,
    /// nginx's medians.
    pub nginx: Option<Figures>,
    /// Gateway's rate ÷ nginx's: the median over the rounds. The promise is ≥ 0.8.
    pub ratio: Option<f64>,
}

/// Medians over the rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// Answers in a second.
    pub requests_per_s: f64,
    /// MiB of bodies in a second.
    pub mib_per_s: f64,
    /// Processor time the proxy used for one answer, in µs.
    pub cpu_us_per_request: f64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Something on the file system, a socket or a process.
    #[error("{step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The certificate for the run could not be made.
    #[error("could not make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// The gateway could not use the certificate.
    #[error("could not set up TLS")]
    Tls(#[source] leapbox_gateway::tls::TlsError),
    /// The gateway could not start.
    #[error("could not start the gateway")]
    Serve(#[source] leapbox_gateway::ServeError),
    /// TLS for the load generator could not be set up.
    #[error("could not set up the load generator's TLS")]
    ClientTls(#[source] rustls::Error),
    /// The key table could not be made.
    #[error("could not make the key table")]
    Db(#[source] leapbox_db::DbError),
    /// The key could not be made.
    #[error("could not make a key")]
    Key(#[source] leapbox_auth::KeyError),
    /// A child said something else than agreed.
    #[error("the {child} process said {said:?}")]
    Child {
        /// Which.
        child: &'static str,
        /// Its words.
        said: String,
    },
    /// The load generator's request failed.
    #[error("a request failed: {why}")]
    Request {
        /// How.
        why: String,
    },
}

impl ProxyError {
    fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| ProxyError::Io { step, source }
    }
}

/// Certificate, key and scratch space of one run.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self, ProxyError> {
        let folder = std::env::temp_dir().join(format!("leapbox-bench-proxy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(ProxyError::io("making a folder for the run"))?;
        let scratch = Self { folder };
        let names = [format!("*.{}", gateway::DOMAIN), "localhost".to_owned()];
        // rcgen's default key is ECDSA P-256.
        let made = rcgen::generate_simple_self_signed(names).map_err(ProxyError::Certificate)?;
        std::fs::write(scratch.certificate(), made.cert.pem()).map_err(ProxyError::io("writing the certificate"))?;
        std::fs::write(scratch.key(), made.signing_key.serialize_pem()).map_err(ProxyError::io("writing the key"))?;
        Ok(scratch)
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(path = %self.folder.display(), error = %chain(&error), "could not remove the run's folder");
        }
    }
}

/// Measures both proxies. Takes about 4 × rounds × round.
pub async fn run(options: ProxyOptions) -> Result<ProxyFigures, ProxyError> {
    let scratch = Scratch::new()?;
    let application = Application::start()?;
    let gateway = start_gateway(&scratch, application.address()).await?;
    let (nginx, about) = match nginx::start(&scratch, application.address(), &gateway).await? {
        Rival::Running(nginx, version) => (Some(nginx), version),
        Rival::Missing(why) => (None, why),
    };
    let small = compare(&scratch, &gateway, nginx.as_ref(), application::SMALL, options).await?;
    let bulk = compare(&scratch, &gateway, nginx.as_ref(), application::BULK, options).await?;
    Ok(ProxyFigures { nginx: about, small, bulk })
}

async fn compare(
    scratch: &Scratch,
    gateway: &Proxy,
    nginx: Option<&Proxy>,
    answer_bytes: usize,
    options: ProxyOptions,
) -> Result<Comparison, ProxyError> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for proxy in [Some(gateway), nginx].into_iter().flatten() {
        load_once(scratch, proxy, answer_bytes, options.round / 4).await?;
    }
    for _ in 0..options.rounds {
        ours.push(load_once(scratch, gateway, answer_bytes, options.round).await?);
        if let Some(nginx) = nginx {
            theirs.push(load_once(scratch, nginx, answer_bytes, options.round).await?);
        }
    }
    let ratios = ours.iter().zip(&theirs).map(|(a, b)| a.requests_per_s / b.requests_per_s);
    let ratio = nginx.map(|_| median(ratios.collect()));
    Ok(Comparison { answer_bytes, gateway: medians(&ours), nginx: nginx.map(|_| medians(&theirs)), ratio })
}

fn medians(rounds: &[Figures]) -> Figures {
    let of = |part: fn(&Figures) -> f64| median(rounds.iter().map(part).collect());
    Figures {
        requests_per_s: of(|f| f.requests_per_s),
        mib_per_s: of(|f| f.mib_per_s),
        cpu_us_per_request: of(|f| f.cpu_us_per_request),
    }
}

/// The middle value, the upper one of two; 0 without any.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
