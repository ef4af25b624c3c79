//! Checks what `leapbox setup` has made: artifacts, agent, certificate, first key, and the directory that they are in.

use super::check::Check;
use crate::config::Config;
use crate::state::State;
use crate::verbs::setup::{find_agent, local_ca};
use leapbox_templates::{Artifacts, initramfs_is_current};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use time::OffsetDateTime;

const SETUP: &str = "run `leapbox setup`";

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let state = State::at(config.state_dir());
    let mut checks = vec![data_folder(&config.data_dir)];
    match Artifacts::open(&config.artifacts_dir) {
        Ok(artifacts) => checks.extend([contents(&artifacts), agent(&artifacts)]),
        Err(error) => checks.push(Check::red("artifacts", error.to_string(), SETUP)),
    }
    checks.push(certificate(config, &state, OffsetDateTime::now_utc()));
    checks.push(key(&state));
    checks
}

fn data_folder(dir: &Path) -> Check {
    const NAME: &str = "data directory";
    let shown = dir.display();
    let Ok(meta) = std::fs::metadata(dir) else {
        return Check::red(NAME, format!("{shown} is missing"), SETUP);
    };
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        let advice = "run leapbox as its owner, or give it another --data-dir";
        return Check::red(NAME, format!("{shown} belongs to uid {}", meta.uid()), advice);
    }
    if meta.mode() & 0o022 != 0 {
        // Whoever can write here can replace what the server starts as root.
        let found = format!("{shown} can be written by others (mode {:o})", meta.mode() & 0o7777);
        return Check::yellow(NAME, found, format!("chmod go-w {shown}"));
    }
    Check::green(NAME, shown.to_string())
}

fn contents(artifacts: &Artifacts) -> Check {
    const NAME: &str = "artifacts";
    if let Err(error) = artifacts.verify() {
        return Check::red(NAME, error.to_string(), SETUP);
    }
    let kernel = artifacts.manifest().kernel.as_ref().map_or("none", |k| k.version.as_str());
    let templates: Vec<_> = artifacts.templates().collect();
    if templates.is_empty() {
        return Check::red(NAME, "no template is built", SETUP);
    }
    Check::green(NAME, format!("kernel {kernel}, templates {}, digests intact", templates.join(" ")))
}

fn agent(artifacts: &Artifacts) -> Check {
    const NAME: &str = "guest agent";
    let agent = match find_agent() {
        Ok(agent) => agent,
        Err(error) => return Check::yellow(NAME, error.to_string(), "make build"),
    };
    match initramfs_is_current(artifacts, &agent) {
        Ok(true) => Check::green(NAME, format!("{} is in the initramfs", agent.display())),
        Ok(false) => Check::yellow(NAME, format!("the initramfs has another agent than {}", agent.display()), SETUP),
        Err(error) => Check::yellow(NAME, error.to_string(), SETUP),
    }
}

fn certificate(config: &Config, state: &State, now: OffsetDateTime) -> Check {
    const NAME: &str = "certificate";
    if let Some(tls) = &config.tls {
        let missing = [&tls.cert, &tls.key].into_iter().find(|p| !p.is_file());
        return match missing {
            Some(path) => Check::red(NAME, format!("{} is missing", path.display()), "correct tls_cert and tls_key"),
            None => Check::green(NAME, format!("configured: {}", tls.cert.display())),
        };
    }
    let Some(record) = local_ca::record(&state.tls_dir()) else {
        return Check::red(NAME, "there is no local CA", SETUP);
    };
    if record.domain != config.domain {
        let found = format!("it is for *.{}, the domain is {}", record.domain, config.domain);
        return Check::red(NAME, found, SETUP);
    }
    // A server renews its certificate in the last 30 days, and set-up both. So the advice works for whatever is
    // reported here: no server has run for weeks, or it is the CA that ends, which a server never makes anew.
    let days = (record.server_not_after.min(record.ca_not_after) - now.unix_timestamp()) / 86_400;
    if days < 14 {
        return Check::yellow(NAME, format!("*.{} ends in {days} days", record.domain), SETUP);
    }
    Check::green(NAME, format!("*.{} of the local CA, for {days} days", record.domain))
}

fn key(state: &State) -> Check {
    const NAME: &str = "first API key";
    let path = state.default_key();
    let Ok(meta) = std::fs::metadata(&path) else {
        return Check::yellow(NAME, format!("{} is missing", path.display()), SETUP);
    };
    if meta.mode() & 0o077 != 0 {
        // Closing the file is not enough: somebody may have read the key already.
        let found = format!("{} can be read by others", path.display());
        return Check::red(NAME, found, format!("chmod 600 {}, and replace the key", path.display()));
    }
    Check::green(NAME, path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_data_folder_others_can_write_to_is_flagged() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(data_folder(dir.path()).level, Level::Green);
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("chmod");
        assert_eq!(data_folder(dir.path()).level, Level::Yellow);
    }

    #[test]
    fn a_key_others_can_read_is_red() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = State::at(dir.path().to_owned());
        state.create().expect("made");
        assert_eq!(key(&state).level, Level::Yellow);
        fs::write(state.default_key(), "k").expect("write");
        fs::set_permissions(state.default_key(), Permissions::from_mode(0o644)).expect("chmod");
        assert_eq!(key(&state).level, Level::Red);
    }
}
