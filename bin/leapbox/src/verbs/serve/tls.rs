//! Reads the gateway's certificate: the operator's own if one is configured, else the local CA's, which set-up made and
//! which is renewed here if it is due.

use super::{ServeError, renew};
use crate::config::Config;
use crate::state::State;
use crate::verbs::setup::local_ca::{SERVER_CERT, SERVER_KEY};
use leapbox_gateway::tls::Tls;
use time::OffsetDateTime;

/// Refuses a certificate of the local CA that is not the configured domain's: after a change of `domain`, set-up has to
/// make another.
pub(super) fn of(config: &Config) -> Result<Tls, ServeError> {
    let Some(own) = &config.tls else {
        // Before it is read: a key and a certificate that an interrupted renewal has left would not fit.
        renew::look(config, OffsetDateTime::now_utc());
        let dir = State::at(config.state_dir()).tls_dir();
        return Ok(Tls::from_files_of(&config.domain, &dir.join(SERVER_CERT), &dir.join(SERVER_KEY))?);
    };
    let tls = Tls::from_files(&own.cert, &own.key)?;
    if !tls.is_of(&config.domain) {
        // Only a warning, because a proxy of the operator's in front of this server may ask for another name.
        let (certificate, domain) = (own.cert.display(), &config.domain);
        tracing::warn!(
            %certificate,
            %domain,
            "the configured certificate is not valid for *.<domain>: clients will refuse it; correct tls_cert or domain"
        );
    }
    Ok(tls)
}
