//! Renews the gateway's certificate of the local CA while the server runs, so that a server that nobody sets up again
//! does not end up with one that clients refuse. The gateway notices changed files by itself and loads them.
//!
//! A new CA is never made here: every client would have to trust it first, and would refuse the server until then.

use super::when;
use crate::config::Config;
use crate::state::State;
use crate::verbs::setup::local_ca::{self, Renewal};
use leapbox_errors::chain;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

// Often enough for a certificate that is renewed 30 days before its end, and for an operator who reads the warning.
const LOOK_EVERY: Duration = Duration::from_secs(12 * 60 * 60);

/// Looks at the certificate every 12 hours until the server stops.
pub(super) async fn keep_certificate(config: Config, stopped: watch::Receiver<bool>) {
    if config.tls.is_some() {
        return;
    }
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one is at once, and `tls::of` has just looked.
    tick.tick().await;
    let stopped = when(stopped);
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = &mut stopped => return,
        }
        let config = config.clone();
        // It reads and writes files, and may wait for a set-up that runs.
        let looked = tokio::task::spawn_blocking(move || look(&config, OffsetDateTime::now_utc()));
        if let Err(error) = looked.await {
            tracing::error!(error = %chain(&error), "looking at the certificate has failed");
        }
    }
}

/// Renews the certificate if it is due, and logs what only set-up can do.
pub(super) fn look(config: &Config, now: OffsetDateTime) {
    let domain = &config.domain;
    match local_ca::renew(&State::at(config.state_dir()).tls_dir(), domain, now) {
        Ok(Renewal::NotDue) => {}
        Ok(Renewal::Renewed) => {
            tracing::info!(
                event = "certificate_renewed",
                %domain,
                "renewed the certificate by the same local CA: clients need nothing new"
            );
        }
        Ok(Renewal::NeedsSetup(reason)) => {
            tracing::warn!(
                event = "certificate_needs_setup",
                %domain,
                %reason,
                "the server cannot renew its certificate: run `leapbox setup`, and have clients trust the new local CA"
            );
        }
        // The certificate before it stays in use, and it is tried again at the next look.
        Err(error) => tracing::warn!(error = %chain(&error), "the certificate of the local CA could not be renewed"),
    }
}
