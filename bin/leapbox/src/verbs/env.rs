//! `leapbox env`: exports that point the official SDK, curl and other clients at the server.
//!
//! ```text
//! state/serving.json of a server that runs ─┐
//! settings, when none does ─────────────────┴─► Serving ─► exports for this machine, or (--remote) for another one
//! ```
//!
//! A server may have been started with other flags than `env`, so its own record comes first. Comments come last, so that
//! even an unquoted `eval $(leapbox env)` sets everything.

use crate::config::Config;
use crate::state::{Serving, State};
use crate::verbs::setup::local_ca::{self, SYSTEM_ROOTS};
use leapbox_errors::FileError;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Variables by which OpenSSL and Python, curl, Python's requests, and Node learn what to trust.
const TRUST: [&str; 4] = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];

/// Arguments of `leapbox env`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print what another machine needs: eval "$(ssh HOST sudo leapbox env --remote)"
    #[arg(long)]
    remote: bool,
}

/// An error of `leapbox env`: there is nothing to export.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// The key, or the certificate, has not been made.
    #[error("{path} is missing: run `leapbox setup`")]
    NotSetUp { path: PathBuf },
    #[error("the first API key cannot be read")]
    Key {
        #[source]
        source: FileError,
    },
    #[error("the local CA's certificate cannot be read")]
    Certificate {
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
pub fn run(config: &Config, args: &Args) -> Result<(), EnvError> {
    let state = State::at(config.state_dir());
    let key = state.read_default_key().map_err(|source| EnvError::Key { source })?;
    let key = key.ok_or_else(|| EnvError::NotSetUp { path: state.default_key() })?;
    let serving = state.read_serving().unwrap_or_else(|| Serving::as_configured(config));
    let tls = state.tls_dir();
    let tls = tls.canonicalize().unwrap_or(tls);
    let text = match args.remote {
        false => here(&serving, &key, &tls)?,
        true => remote(&serving, &key, &tls)?,
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|source| EnvError::Print { source })
}

/// The exports for this machine: the control plane on its own address, the local CA's files where they are.
fn here(serving: &Serving, key: &str, tls: &Path) -> Result<String, EnvError> {
    let mut text = exports(key, &format!("http://{}", reachable(serving.api)), serving);
    // The system's roots are enough for a certificate of the operator's own.
    if !serving.own_certificate {
        let bundle = local_ca::bundle(tls);
        if !bundle.is_file() {
            return Err(EnvError::NotSetUp { path: bundle });
        }
        text.push_str(&trust(&quoted(&bundle.display().to_string())));
        text.push_str(&browser_hints(&local_ca::ca_cert(tls)));
    }
    Ok(text)
}

/// The exports for another machine. The control plane is reached behind the gateway's TLS, because its own port speaks
/// plain HTTP; the CA's certificate is in the text, because the other machine has no file of this one.
fn remote(serving: &Serving, key: &str, tls: &Path) -> Result<String, EnvError> {
    let mut text = exports(key, &format!("https://api.{}", authority(serving)), serving);
    if !serving.own_certificate {
        let path = local_ca::ca_cert(tls);
        let pem = crate::state::read_if_there(&path).map_err(|source| EnvError::Certificate { source })?;
        text.push_str(&trust_on_another_machine(pem.ok_or(EnvError::NotSetUp { path })?.trim_end()));
    }
    text.push_str(&network_hints(serving));
    Ok(text)
}

fn exports(key: &str, base_url: &str, serving: &Serving) -> String {
    let domain = authority(serving);
    [("LEAP0_API_KEY", key), ("LEAP0_BASE_URL", base_url), ("LEAP0_SANDBOX_DOMAIN", &domain)]
        .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
        .concat()
}

/// `bundle` is a word of the shell.
fn trust(bundle: &str) -> String {
    TRUST.map(|name| format!("export {name}={bundle}\n")).concat()
}

/// Most of these variables replace the system's roots, so the other machine's own go into the file as well.
fn trust_on_another_machine(pem: &str) -> String {
    let roots = SYSTEM_ROOTS.join(" ");
    format!(
        "mkdir -p \"$HOME/.leapbox\"\n\
         cat $(ls {roots} 2>/dev/null | head -n 1) - >\"$HOME/.leapbox/bundle.pem\" <<'PEM'\n{pem}\nPEM\n{}",
        trust("\"$HOME/.leapbox/bundle.pem\"")
    )
}

/// The sandboxes' domain, with the gateway's port unless it is the one of https.
fn authority(serving: &Serving) -> String {
    match serving.gateway.port() {
        443 => serving.domain.clone(),
        port => format!("{}:{port}", serving.domain),
    }
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

/// How the other machine finds and reaches the gateway.
fn network_hints(serving: &Serving) -> String {
    let (domain, port) = (&serving.domain, serving.gateway.port());
    let mut text = String::new();
    if serving.gateway.ip().is_loopback() {
        text.push_str(&format!(
            "# The gateway listens on loopback only ({}). Start the server with --gateway 0.0.0.0:{port}, or forward\n\
             # the port from the other machine: ssh -N -L {port}:127.0.0.1:{port} HOST\n",
            serving.gateway
        ));
    }
    if domain.ends_with(".localhost") {
        text.push_str(&format!(
            "# Every machine resolves *.{domain} to itself: that works through a forwarded port. Without one, give the\n\
             # server a name of your own (--domain, then `leapbox setup` again).\n"
        ));
    } else {
        text.push_str(&format!(
            "# The other machine must find {domain} and *.{domain} at this host: two DNS records, one of them a wildcard.\n"
        ));
    }
    text
}

fn browser_hints(ca: &Path) -> String {
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

    fn serving(settings: Settings) -> Serving {
        let data_dir = Some("/nonexistent".into());
        Serving::as_configured(&Config::load(Settings { data_dir, ..settings }).expect("valid"))
    }

    /// A folder with a CA's certificate and the bundle.
    fn tls() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        local_ca::ensure(dir.path(), "sandbox.localhost", time::OffsetDateTime::now_utc()).expect("a CA");
        dir
    }

    #[test]
    fn the_sdk_gets_key_address_and_domain_with_port() {
        let tls = tls();
        let text = here(&serving(Settings::default()), "k", tls.path()).expect("set up");
        assert!(text.contains("export LEAP0_API_KEY='k'\n"), "{text}");
        assert!(text.contains("export LEAP0_BASE_URL='http://127.0.0.1:8080'\n"), "{text}");
        assert!(text.contains("export LEAP0_SANDBOX_DOMAIN='sandbox.localhost:8443'\n"), "{text}");
        let bundle = tls.path().join("bundle.pem");
        assert!(text.contains(&format!("export NODE_EXTRA_CA_CERTS='{}'\n", bundle.display())), "{text}");
    }

    #[test]
    fn a_server_on_every_address_is_reached_on_loopback_and_port_443_is_not_written() {
        let api = "0.0.0.0:80".parse().ok();
        let gateway = "[::]:443".parse().ok();
        let mut serving = serving(Settings { api, gateway, ..Settings::default() });
        serving.own_certificate = true;
        let text = here(&serving, "k", Path::new("/nonexistent")).expect("no CA is needed");
        assert!(text.contains("http://127.0.0.1:80'"), "{text}");
        assert!(text.contains("LEAP0_SANDBOX_DOMAIN='sandbox.localhost'\n"), "{text}");
        assert!(!text.contains("SSL_CERT_FILE"), "{text}");
    }

    #[test]
    fn without_a_certificate_it_says_what_to_run() {
        let error = here(&serving(Settings::default()), "k", Path::new("/nonexistent")).expect_err("no bundle");
        assert!(matches!(error, EnvError::NotSetUp { .. }), "{error}");
    }

    /// What a shell on another machine, with a home of its own, has after `eval` of the text.
    fn evaluated(text: &str, home: &Path, script: &str) -> String {
        let script = format!("eval \"$TEXT\"; {script}");
        let mut shell = std::process::Command::new("sh");
        let output = shell.args(["-euc", &script]).env("HOME", home).env("TEXT", text).output().expect("a shell");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn another_machine_gets_tls_addresses_and_the_ca_itself() {
        let (tls, home) = (tls(), tempfile::tempdir().expect("a home"));
        let gateway = "0.0.0.0:443".parse().ok();
        let domain = Some("boxes.example.com".to_owned());
        let text = remote(&serving(Settings { gateway, domain, ..Settings::default() }), "k'", tls.path());
        let text = text.expect("set up");
        assert!(text.contains("*.boxes.example.com at this host") && !text.contains("loopback"), "{text}");
        let printed = evaluated(&text, home.path(), "echo \"$LEAP0_API_KEY $LEAP0_BASE_URL\"; cat \"$SSL_CERT_FILE\"");
        assert!(printed.starts_with("k' https://api.boxes.example.com\n"), "{printed}");
        let ca = std::fs::read_to_string(local_ca::ca_cert(tls.path())).expect("a certificate");
        assert!(printed.ends_with(&ca), "{printed}");
    }

    #[test]
    fn a_gateway_on_loopback_is_reached_through_a_forwarded_port() {
        let text = remote(&serving(Settings::default()), "k", tls().path()).expect("set up");
        assert!(text.contains("ssh -N -L 8443:127.0.0.1:8443"), "{text}");
        assert!(text.contains("https://api.sandbox.localhost:8443"), "{text}");
    }

    #[test]
    fn a_quote_in_a_value_does_not_end_it() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
