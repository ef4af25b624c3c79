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

use crate::figures::median;
use crate::rival::Rounds;
use crate::scratch::Scratch;
use crate::web;
use anyhow::Result;
use application::Application;
use children::{Proxy, load_once, start_gateway};
use serde::Serialize;
use std::time::Duration;

/// Kept connections of the load generator.
const CONNECTIONS: usize = 16;
/// Of each kind of answer.
const ROUNDS: Rounds = Rounds { count: 5, length: Duration::from_secs(3), warm_up: Duration::from_millis(750) };

#[derive(Debug, Clone, Serialize)]
pub struct ProxyFigures {
    /// nginx's version, or why there is nothing to compare with.
    pub nginx: String,
    pub small: Comparison,
    pub bulk: Comparison,
}

/// One kind of answer, over both proxies. nginx's side is absent where nginx is.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    pub answer_bytes: usize,
    pub gateway: Figures,
    pub nginx: Option<Figures>,
    /// Gateway's rate ÷ nginx's: the median over the rounds. The promise is ≥ 0.8.
    pub ratio: Option<f64>,
}

/// Medians over the rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    pub requests_per_s: f64,
    /// Of the answers' bodies.
    pub mib_per_s: f64,
    /// Of the proxy alone.
    pub cpu_us_per_request: f64,
}

/// Measures both proxies, for about a minute.
pub fn run() -> Result<ProxyFigures> {
    let scratch = Scratch::make("proxy", &[&format!("*.{}", gateway::DOMAIN), "localhost"])?;
    let application = Application::start()?;
    let gateway = start_gateway(&scratch, application.address)?;
    let (nginx, about) = nginx::start(&scratch, application.address, &gateway)?;
    let small = compare(&scratch, &gateway, nginx.as_ref(), web::SMALL)?;
    let bulk = compare(&scratch, &gateway, nginx.as_ref(), web::BULK)?;
    Ok(ProxyFigures { nginx: about, small, bulk })
}

fn compare(scratch: &Scratch, gateway: &Proxy, nginx: Option<&Proxy>, answer_bytes: usize) -> Result<Comparison> {
    let measure = |proxy: &Proxy, time| load_once(scratch, proxy, answer_bytes, time);
    let (ours, theirs) = ROUNDS.in_turn(gateway, nginx, measure)?;
    let ratio = median(ours.iter().zip(&theirs).map(|(a, b)| a.requests_per_s / b.requests_per_s));
    Ok(Comparison { answer_bytes, gateway: medians(&ours), nginx: nginx.map(|_| medians(&theirs)), ratio })
}

fn medians(rounds: &[Figures]) -> Figures {
    let of = |part: fn(&Figures) -> f64| median(rounds.iter().map(part)).unwrap_or_default();
    Figures {
        requests_per_s: of(|f| f.requests_per_s),
        mib_per_s: of(|f| f.mib_per_s),
        cpu_us_per_request: of(|f| f.cpu_us_per_request),
    }
}
