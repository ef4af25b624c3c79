//! `GET /metrics`: the counters of lifecycle, storage, gateway, network and egress in Prometheus' text format (version
//! 0.0.4).

use super::backends::Sandboxes;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use leapbox_api_types::sandbox::SandboxState;
use leapbox_gateway::Gateway;
use leapbox_lifecycle::{BUCKETS_MS, LatencyStats, Lifecycle};
use leapbox_network::Network;
use std::fmt::Write;
use std::sync::Arc;

/// Makes the router that serves the metrics.
pub(super) fn router(lifecycle: Lifecycle, gateway: Gateway<Sandboxes>, network: Arc<Network>) -> Router {
    let answer = move || {
        let text = render(&lifecycle, &gateway, &network);
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response() }
    };
    Router::new().route("/metrics", get(answer))
}

/// The text of the page so far. Results of writing to it are dropped, because writing to a string cannot fail.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP leapbox_{name} {help}\n# TYPE leapbox_{name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "leapbox_{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.value(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, latencies: &LatencyStats) {
        self.head(name, "histogram", help);
        // Prometheus' buckets are cumulative, ours are not: each counts what is between two bounds.
        let mut below = 0;
        for (bound, count) in BUCKETS_MS.iter().zip(&latencies.buckets) {
            below += count;
            let seconds = *bound as f64 / 1000.0;
            self.value(&format!("{name}_bucket"), &format!("{{le=\"{seconds}\"}}"), below);
        }
        let all: u64 = latencies.buckets.iter().sum();
        self.value(&format!("{name}_bucket"), "{le=\"+Inf\"}", all);
        self.value(&format!("{name}_sum"), "", latencies.sum.as_secs_f64());
        self.value(&format!("{name}_count"), "", all);
    }
}

fn render(lifecycle: &Lifecycle, gateway: &Gateway<Sandboxes>, network: &Network) -> String {
    let mut page = Page(String::with_capacity(4096));
    let stats = lifecycle.stats();
    page.head("sandboxes", "gauge", "Living sandboxes by state.");
    for state in SandboxState::ALL {
        let count = stats.states.iter().filter(|s| **s == state).count();
        page.value("sandboxes", &format!("{{state=\"{state}\"}}"), count);
    }
    page.single("pool_ready", "gauge", "Clones that are ready in the pool.", stats.machines.ready);
    page.histogram("create_seconds", "From the request to a usable sandbox.", &stats.creates);
    page.head("machines_total", "counter", "Machines given to new sandboxes, by where they came from.");
    page.value("machines_total", "{source=\"pool\"}", stats.machines.from_pool);
    page.value("machines_total", "{source=\"base\"}", stats.machines.launched);
    page.histogram(
        "restore_seconds",
        "From the request to a usable sandbox, restored from a snapshot.",
        &stats.restores,
    );
    page.histogram(
        "pause_seconds",
        "From the permit to store the sandbox until it is stored and its machine has ended.",
        &stats.pauses,
    );
    page.histogram(
        "wake_seconds",
        "From the first request that needs a paused sandbox to its being usable.",
        &stats.wakes,
    );
    page.single("wakes_failed_total", "counter", "Wakes that failed; the sandboxes stayed paused.", stats.failed_wakes);
    write_archives(&mut page, &stats.machines.archives);
    write_gateway(&mut page, gateway);
    write_network(&mut page, network);
    write_egress(&mut page, network);
    page.0
}

fn write_archives(page: &mut Page, archives: &leapbox_storage::Usage) {
    page.single(
        "archives",
        "gauge",
        "Stored archives: checkpoints, and bases for the object store.",
        archives.archives,
    );
    page.single("archives_bytes", "gauge", "Bytes of archives in the data directory.", archives.bytes);
    page.single("archives_pending", "gauge", "Archives that the object store does not have yet.", archives.pending);
}

fn write_gateway(page: &mut Page, gateway: &Gateway<Sandboxes>) {
    let stats = gateway.stats();
    page.single("gateway_connections_open", "gauge", "Client connections and tunnels.", stats.connections_open);
    page.head("gateway_requests_total", "counter", "Requests by their target.");
    page.value("gateway_requests_total", "{to=\"sandbox\"}", stats.requests_sandbox);
    page.value("gateway_requests_total", "{to=\"control\"}", stats.requests_control);
    page.head("gateway_refused_total", "counter", "The gateway's own error answers by class.");
    page.value("gateway_refused_total", "{class=\"4xx\"}", stats.refused_4xx);
    page.value("gateway_refused_total", "{class=\"5xx\"}", stats.failed_5xx);
    page.single("gateway_tunnels_total", "counter", "WebSocket tunnels begun.", stats.tunnels);
    page.head("gateway_bytes_total", "counter", "Body and tunnel bytes by direction.");
    page.value("gateway_bytes_total", "{direction=\"in\"}", stats.bytes_to_sandboxes);
    page.value("gateway_bytes_total", "{direction=\"out\"}", stats.bytes_from_sandboxes);
}

fn write_network(page: &mut Page, network: &Network) {
    let stats = network.stats();
    page.head("network_slots", "gauge", "Network slots by state.");
    page.value("network_slots", "{state=\"prepared\"}", stats.prepared);
    page.value("network_slots", "{state=\"in_use\"}", stats.in_use);
    page.value("network_slots", "{state=\"releasing\"}", stats.releasing);
    page.single(
        "host_rules_restored_total",
        "counter",
        "How often rules of the host that another program had removed were put back.",
        stats.host_rules_restored,
    );
}

/// Writes the numbers of name queries and outgoing connections. A sandbox's series end with its machine, so their
/// number stays bounded.
fn write_egress(page: &mut Page, network: &Network) {
    let dns = network.stats().dns;
    page.head("dns_queries_total", "counter", "Name queries of sandboxes by outcome.");
    page.value("dns_queries_total", "{outcome=\"answered\"}", dns.answered.saturating_sub(dns.failed));
    page.value("dns_queries_total", "{outcome=\"failed\"}", dns.failed);
    page.value("dns_queries_total", "{outcome=\"dropped\"}", dns.dropped);
    let mut journals = network.journals();
    // Sorted, so that two pages can be compared line by line.
    journals.sort_by(|one, other| one.sandbox().cmp(other.sandbox()));
    let numbers: Vec<_> = journals.iter().map(|journal| (journal.sandbox(), journal.snapshot())).collect();
    page.head(
        "egress_denied_total",
        "counter",
        "Queries, packets and connections denied to a sandbox, by the rule that denied them; see the log.",
    );
    for (sandbox, numbers) in &numbers {
        // Series that are still 0 are left out: every sandbox would have one for each of the rules.
        for (rule, count) in numbers.denials.iter().filter(|(_, count)| *count > 0) {
            page.value("egress_denied_total", &format!("{{sandbox=\"{sandbox}\",rule=\"{rule}\"}}"), count);
        }
    }
    page.head("egress_connections_total", "counter", "Connections let through by the egress proxy, by kind.");
    for (sandbox, numbers) in &numbers {
        for (kind, count) in numbers.connections.iter().filter(|(_, count)| *count > 0) {
            page.value("egress_connections_total", &format!("{{sandbox=\"{sandbox}\",kind=\"{kind}\"}}"), count);
        }
    }
    page.head("egress_bytes_total", "counter", "Bytes through the egress proxy by direction.");
    for (sandbox, numbers) in &numbers {
        for (direction, bytes) in [("out", numbers.bytes_from_sandbox), ("in", numbers.bytes_to_sandbox)] {
            if bytes > 0 {
                page.value(
                    "egress_bytes_total",
                    &format!("{{sandbox=\"{sandbox}\",direction=\"{direction}\"}}"),
                    bytes,
                );
            }
        }
    }
}
