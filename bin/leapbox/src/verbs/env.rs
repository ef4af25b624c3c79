//! `leapbox env`: exports that point the official SDK, curl and other clients at this server.
//!
//! Comments come last, so that even an unquoted `eval $(leapbox env)` sets everything.

use crate::config::Config;
use crate::state::State;
use crate::verbs::setup::local_ca;
use leapbox_errors::FileError;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Variables by which OpenSSL and Python, curl, Python's requests, and Node are told what to trust.
const TRUST: [&str; 4] = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];

/// Why there is nothing to export.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// No key, or no certificate.
    #[error("{path} is missing: run `leapbox setup`")]
    NotSetUp { path: std::path::PathBuf },
    /// The key cannot be read.
    #[error("the first API key cannot be read")]
    Key {
        #[source]
        source: FileError,
    },
    /// Standard output is closed.
    #[error("print the exports")]
    Print {
        #[source]
        source: std::io::Error,
    },
}

/// Prints the exports.
pub fn run(config: &Config) -> Result<(), EnvError> {
    let state = State::at(config.state_dir());
    let key = state.read_default_key().map_err(|source| EnvError::Key { source })?;
    let key = key.ok_or_else(|| EnvError::NotSetUp { path: state.default_key() })?;
    let tls = state.tls_dir();
    let tls = tls.canonicalize().unwrap_or(tls);
    let bundle = local_ca::bundle(&tls);
    // With a certificate of the operator's own, the system's roots are enough.
    let trust = config.tls.is_none().then_some(bundle.as_path());
    if let Some(path) = trust.filter(|p| !p.is_file()) {
        return Err(EnvError::NotSetUp { path: path.to_owned() });
    }
    let mut text = exports(config, &key, trust);
    if trust.is_some() {
        text.push_str(&trust_hints(&local_ca::ca_cert(&tls)));
    }
    std::io::stdout().write_all(text.as_bytes()).map_err(|source| EnvError::Print { source })
}

fn exports(config: &Config, key: &str, trust: Option<&Path>) -> String {
    let domain = match config.gateway.port() {
        443 => config.domain.clone(),
        port => format!("{}:{port}", config.domain),
    };
    let mut lines = vec![
        ("LEAP0_API_KEY", key.to_owned()),
        ("LEAP0_BASE_URL", format!("http://{}", reachable(config.api))),
        ("LEAP0_SANDBOX_DOMAIN", domain),
    ];
    let bundle = trust.map(|p| p.display().to_string());
    lines.extend(TRUST.iter().filter_map(|name| Some((*name, bundle.clone()?))));
    lines.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
}

/// An address to connect to, for one to listen on.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A value as one word of the shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn trust_hints(ca: &Path) -> String {
    let ca = ca.display();
    format!(
        "# A browser trusts the sandboxes once it has the local CA: {ca}\n\
         #   Firefox: Settings, Certificates, Authorities, Import\n\
         #   Chromium: certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n leapbox -i {ca}\n\
         #   the whole system: cp {ca} /usr/local/share/ca-certificates/leapbox.crt, then update-ca-certificates\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn config(settings: Settings) -> Config {
        let data_dir = Some("/nonexistent".into());
        Config::load(Settings { data_dir, ..settings }).expect("valid")
    }

    #[test]
    fn the_sdk_gets_key_address_and_domain_with_port() {
        let text = exports(&config(Settings::default()), "k", Some(Path::new("/b.pem")));
        assert!(text.contains("export LEAP0_API_KEY='k'\n"), "{text}");
        assert!(text.contains("export LEAP0_BASE_URL='http://127.0.0.1:8080'\n"), "{text}");
        assert!(text.contains("export LEAP0_SANDBOX_DOMAIN='sandbox.localhost:8443'\n"), "{text}");
        assert!(text.contains("export NODE_EXTRA_CA_CERTS='/b.pem'\n"), "{text}");
    }

    #[test]
    fn a_server_on_every_address_is_reached_on_loopback_and_port_443_is_not_written() {
        let api = "0.0.0.0:80".parse().ok();
        let gateway = "[::]:443".parse().ok();
        let text = exports(&config(Settings { api, gateway, ..Settings::default() }), "k", None);
        assert!(text.contains("http://127.0.0.1:80'"), "{text}");
        assert!(text.contains("LEAP0_SANDBOX_DOMAIN='sandbox.localhost'\n"), "{text}");
        assert!(!text.contains("SSL_CERT_FILE"), "{text}");
    }

    #[test]
    fn a_quote_in_a_value_does_not_end_it() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
