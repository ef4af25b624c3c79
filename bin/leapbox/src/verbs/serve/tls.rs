//! Reads the gateway's certificate: the operator's own if one is configured, else the local CA's, which set-up made.

use super::ServeError;
use crate::config::Config;
use crate::state::State;
use leapbox_gateway::tls::Tls;

pub(super) fn of(config: &Config) -> Result<Tls, ServeError> {
    let tls_dir = State::at(config.state_dir()).tls_dir();
    let (cert, key) = match &config.tls {
        Some(files) => (files.cert.clone(), files.key.clone()),
        None => (tls_dir.join("server.pem"), tls_dir.join("server.key")),
    };
    Ok(Tls::from_files(&cert, &key)?)
}
