//! Precedence, checks, and what a wrong file is told.

use super::*;

fn settings(text: &str) -> Result<Settings, toml::de::Error> {
    toml::from_str(text)
}

fn resolve(s: Settings) -> Result<Config, ConfigError> {
    Config::resolve(s, "/data".into(), 8192)
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let config = resolve(Settings::default()).expect("valid");
    assert_eq!(config.api.to_string(), "127.0.0.1:8080");
    assert_eq!(config.gateway.to_string(), "127.0.0.1:8443");
    assert_eq!(config.domain, "sandbox.localhost");
    assert_eq!(config.artifacts_dir, Path::new("/data/artifacts"));
    assert_eq!((config.memory_budget_mib, config.pool_memory_mib), (16384, 8192));
}

#[test]
fn flags_and_environment_win_over_the_file_which_wins_over_defaults() {
    let file = settings("api = \"127.0.0.1:1\"\nrate_limit = 7\ndns_upstreams = [\"10.0.0.2:53\"]\n").expect("valid");
    let flags = Settings { api: "127.0.0.1:2".parse().ok(), ..Settings::default() };
    let config = resolve(flags.over(file)).expect("valid");
    assert_eq!(config.api.port(), 2);
    assert_eq!(config.rate_limit, 7);
    assert_eq!(config.max_sandboxes, 1000);
    assert_eq!(config.dns_upstreams.expect("given").len(), 1);
}

#[test]
fn an_unknown_key_in_the_file_is_named() {
    let error = settings("gatway = \"127.0.0.1:1\"\n").expect_err("refused");
    assert!(error.to_string().contains("gatway"), "{error}");
}

#[test]
fn the_data_folder_cannot_be_set_in_the_file_that_lies_in_it() {
    assert!(settings("data_dir = \"/elsewhere\"\n").is_err());
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let error = resolve(Settings { tls_cert: Some("c.pem".into()), ..Settings::default() }).expect_err("refused");
    assert!(error.to_string().contains("tls_cert"), "{error}");
}

#[test]
fn a_domain_that_could_carry_no_wildcard_or_a_port_is_refused() {
    for domain in ["localhost", "sandbox.localhost:8443", "Sandbox.localhost", "a..b", "-a.b", ""] {
        let domain = Some(domain.to_owned());
        assert!(resolve(Settings { domain: domain.clone(), ..Settings::default() }).is_err(), "{domain:?}");
    }
}

#[test]
fn uids_of_people_and_services_are_refused() {
    assert!(resolve(Settings { base_uid: Some(1000), ..Settings::default() }).is_err());
}

#[test]
fn a_base_uid_that_is_not_configured_is_left_to_the_installation() {
    assert_eq!(resolve(Settings::default()).expect("valid").base_uid, None);
    let configured = resolve(Settings { base_uid: Some(3_000_000), ..Settings::default() }).expect("valid");
    assert_eq!(configured.base_uid, Some(3_000_000));
}

#[test]
fn numbers_whose_sums_would_overflow_are_refused_by_name() {
    let refused = |s: Settings| resolve(s).expect_err("refused").to_string();
    let most = (Some(u32::MAX), Some(u64::MAX));
    let error = refused(Settings { max_sandboxes: most.0, ..Settings::default() });
    assert!(error.contains("max_sandboxes") && error.contains("16384"), "{error}");
    assert!(refused(Settings { pool_size: most.0, ..Settings::default() }).contains("pool_size"));
    assert!(refused(Settings { archive_cache_mib: most.1, ..Settings::default() }).contains("archive_cache_mib"));
    assert!(refused(Settings { memory_budget_mib: most.1, ..Settings::default() }).contains("memory_budget_mib"));
    assert!(refused(Settings { pool_memory_mib: most.1, ..Settings::default() }).contains("pool_memory_mib"));
}

#[test]
fn the_largest_numbers_fit_into_the_default_link_block_and_into_64_bits() {
    let largest = Settings {
        max_sandboxes: Some(MOST_SANDBOXES),
        pool_size: Some(MOST_POOLED),
        archive_cache_mib: Some(MOST_MIB),
        ..Settings::default()
    };
    let config = resolve(largest).expect("valid");
    assert_eq!(config.max_slots(), 16_384 + 4096 + 16);
    assert!(config.max_slots() <= 32_768, "the slots of 10.253.0.0/16");
    assert_eq!(config.archive_cache_bytes(), 1 << 63);
    // A host whose memory cannot be a number has a budget, which is refused like any other.
    assert!(Config::resolve(Settings::default(), "/data".into(), u64::MAX).is_err());
}

#[test]
fn an_ipv4_loopback_address_gets_its_ipv6_twin() {
    let twins = with_loopback_twin(local(8443));
    assert_eq!(twins.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:8443", "[::1]:8443"]);
    let public = "0.0.0.0:443".parse().expect("an address");
    assert_eq!(with_loopback_twin(public), [public]);
}
