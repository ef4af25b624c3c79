//! The certificate of a sandbox's own authority, on loopback, through the real client. Needs root and a cgroup2 mount,
//! as the agent does.

mod support;

use leapbox_guest_client::protocol::*;
use std::fs;
use support::{Sandbox, fault_of};

const OURS: &str = include_str!("samples/ours.pem");
const OURS_TOO: &str = include_str!("samples/ours_too.pem");
const OTHERS: &str = include_str!("samples/others.pem");
/// In the guest's disk.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

fn trusting(pem: &str) -> Configure {
    Configure { trust: Some(Trust::Certificate(pem.into())), ..support::configuration() }
}

fn keep() -> Configure {
    Configure { identity: None, env: None, ..support::configuration() }
}

async fn sandbox() -> Sandbox {
    let sandbox = Sandbox::start_unconfigured().await;
    fs::create_dir_all(sandbox.on_disk("etc/ssl/certs")).expect("makes");
    fs::write(sandbox.on_disk(BUNDLE), OTHERS).expect("writes");
    sandbox
}

/// Waits until the disk's bundle is this: it may take longer than `configure` waits for it.
async fn bundle_becomes(sandbox: &Sandbox, text: &str) {
    let bundle = sandbox.on_disk(BUNDLE);
    sandbox.until("the bundle is right", || fs::read_to_string(&bundle).is_ok_and(|found| found == text)).await;
}

async fn said(sandbox: &Sandbox, command: &str) -> String {
    let output = sandbox.exec(command).await;
    assert_eq!(output.exit_code, 0, "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test]
async fn a_sandboxs_certificate_is_where_its_first_command_looks_for_it() {
    let sandbox = sandbox().await;
    sandbox.guest.configure(trusting(OURS)).await.expect("configures");
    assert_eq!(said(&sandbox, "cat $NODE_EXTRA_CA_CERTS").await, OURS);
    bundle_becomes(&sandbox, &format!("{OTHERS}{OURS}")).await;
    assert_eq!(said(&sandbox, "until readlink $SSL_CERT_FILE; do sleep 0.01; done").await, format!("/{BUNDLE}\n"));
    let names = "REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO PIP_CERT AWS_CA_BUNDLE CARGO_HTTP_CAINFO \
                 GRPC_DEFAULT_SSL_ROOTS_FILE_PATH DENO_CERT";
    let differ = format!("for name in {names}; do [ \"$(printenv $name)\" = $SSL_CERT_FILE ] || echo $name; done");
    assert_eq!(said(&sandbox, &differ).await, "");
}

#[tokio::test]
async fn the_folder_in_memory_is_read_only() {
    let sandbox = sandbox().await;
    sandbox.guest.configure(trusting(OURS)).await.expect("configures");
    assert_ne!(sandbox.exec("echo > $NODE_EXTRA_CA_CERTS").await.exit_code, 0);
    assert!(said(&sandbox, "grep ' /run/leapbox ' /proc/self/mountinfo").await.contains(" ro,nosuid,nodev,noexec"));
}

#[tokio::test]
async fn variables_of_the_sandbox_and_the_call_win_over_the_certificates() {
    let sandbox = sandbox().await;
    let env = Some(vec![("PIP_CERT".to_owned(), "mine".to_owned()), ("DENO_CERT".to_owned(), "mine".to_owned())]);
    sandbox.guest.configure(Configure { env, ..trusting(OURS) }).await.expect("configures");
    let request = ExecRequest {
        command: "echo $SSL_CERT_FILE $PIP_CERT $DENO_CERT".into(),
        cwd: None,
        env: vec![("DENO_CERT".into(), "call".into())],
        timeout_ms: 20_000,
        output_limit: 1024,
    };
    let output = sandbox.guest.exec(request).await.expect("runs");
    assert_eq!(output.stdout, b"/run/leapbox/ca-bundle.pem mine call\n");
}

#[tokio::test]
async fn a_configure_that_says_nothing_of_trust_keeps_it() {
    let sandbox = sandbox().await;
    sandbox.guest.configure(trusting(OURS)).await.expect("configures");
    sandbox.guest.suspend().await.expect("suspends");
    sandbox.guest.configure(keep()).await.expect("goes on");
    assert_eq!(said(&sandbox, "cat $NODE_EXTRA_CA_CERTS").await, OURS);
}

#[tokio::test]
async fn a_restored_sandbox_trusts_its_own_authority_and_not_its_parents() {
    let sandbox = sandbox().await;
    sandbox.guest.configure(trusting(OURS)).await.expect("configures");
    sandbox.guest.suspend().await.expect("suspends");
    sandbox.guest.configure(Configure { env: None, ..trusting(OURS_TOO) }).await.expect("becomes another");
    assert_eq!(said(&sandbox, "cat $NODE_EXTRA_CA_CERTS").await, OURS_TOO);
    bundle_becomes(&sandbox, &format!("{OTHERS}{OURS_TOO}")).await;
}

#[tokio::test]
async fn a_sandbox_that_is_to_trust_nobody_more_has_no_trace_of_the_certificate() {
    let sandbox = sandbox().await;
    sandbox.guest.configure(trusting(OURS)).await.expect("configures");
    let distrust = Configure { trust: Some(Trust::None), ..keep() };
    sandbox.guest.configure(distrust).await.expect("goes on");
    assert_eq!(said(&sandbox, "env | grep -c /run/leapbox || true").await, "0\n");
    bundle_becomes(&sandbox, OTHERS).await;
    // What was started before still has the bundle's path in its environment.
    assert_eq!(said(&sandbox, "ls /run/leapbox").await, "ca-bundle.pem\n");
}

#[tokio::test]
async fn a_snapshot_to_start_sandboxes_from_has_no_certificate() {
    let sandbox = sandbox().await;
    sandbox.guest.configure(trusting(OURS)).await.expect("configures");
    sandbox.guest.prepare_snapshot().await.expect("gets ready");
    sandbox.guest.configure(support::configuration()).await.expect("configures");
    assert_eq!(said(&sandbox, "env | grep -c /run/leapbox || true").await, "0\n");
    bundle_becomes(&sandbox, OTHERS).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_a_sandboxs_is_refused_and_nothing_changes() {
    let sandbox = sandbox().await;
    assert_eq!(fault_of(sandbox.guest.configure(trusting(OTHERS)).await), FaultKind::InvalidInput);
    assert_eq!(sandbox.guest.ping().await.expect("answers").phase, Phase::Unconfigured);
    bundle_becomes(&sandbox, OTHERS).await;
}
