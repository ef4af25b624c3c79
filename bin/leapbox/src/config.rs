//! Reads the settings: flags over environment over `config.toml` over defaults. Called by `main` for every verb.
//!
//! ```text
//! flags, LEAPBOX_* ─clap─► Settings ─┐
//! config.toml ─────toml──► Settings ─┴─over─► Config (every value present and checked)
//! ```
//!
//! There is one file, in the data directory unless `--config` names another. An unknown key in it is an error, because
//! a mistyped setting would otherwise be ignored without a word.

// clap prints the settings' doc comments as help, where `<id>` stands for itself.
#![allow(rustdoc::invalid_html_tags)]

use leapbox_egress_policy::{Cidr, CidrError, operator_cidr};
use leapbox_network::{InvalidBlock, Ipv4Block};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The setting of which VMM driver runs the sandboxes; `driver::choose` makes a driver of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DriverSetting {
    /// Firecracker if this host can run it, else QEMU.
    Auto,
    /// QEMU's microvm under emulation, which every host can run.
    Qemu,
    /// Firecracker with its jailer, on a host with KVM.
    Firecracker,
}

impl DriverSetting {
    /// The value as it is written in flags, environment and file.
    pub fn as_str(self) -> &'static str {
        match self {
            DriverSetting::Auto => "auto",
            DriverSetting::Qemu => "qemu",
            DriverSetting::Firecracker => "firecracker",
        }
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people to read.
    Text,
    /// One JSON object on each line.
    Json,
}

/// The settings of one source (flags and environment, or the file), each of which may be absent. The docs of the fields
/// are the help of the command line; docs/operations.md has the same settings as a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Directory of everything that this installation keeps [default: /var/lib/leapbox].
    #[serde(skip)]
    #[arg(long, env = "LEAPBOX_DATA_DIR", global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file [default: config.toml in the data directory].
    #[serde(skip)]
    #[arg(long, env = "LEAPBOX_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of kernel, initramfs and templates, which servers may share [default: artifacts in the data
    /// directory].
    #[arg(long, env = "LEAPBOX_ARTIFACTS_DIR", global = true, value_name = "DIR")]
    pub artifacts_dir: Option<PathBuf>,
    /// Address of the control plane, which speaks plain HTTP there [default: 127.0.0.1:8080].
    #[arg(long, env = "LEAPBOX_API", global = true, value_name = "ADDR")]
    pub api: Option<SocketAddr>,
    /// Address of the gateway, which speaks TLS [default: 127.0.0.1:8443].
    #[arg(long, env = "LEAPBOX_GATEWAY", global = true, value_name = "ADDR")]
    pub gateway: Option<SocketAddr>,
    /// Address of the Prometheus metrics [default: 127.0.0.1:9090].
    #[arg(long, env = "LEAPBOX_METRICS", global = true, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
    /// Domain of the sandboxes, which are reached at <id>.<domain> [default: sandbox.localhost].
    #[arg(long, env = "LEAPBOX_DOMAIN", global = true, value_name = "NAME")]
    pub domain: Option<String>,
    /// Certificate chain (PEM) of *.<domain>, instead of the local CA's.
    #[arg(long, env = "LEAPBOX_TLS_CERT", global = true, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of that certificate.
    #[arg(long, env = "LEAPBOX_TLS_KEY", global = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// VMM that runs the sandboxes [default: auto].
    #[arg(long, env = "LEAPBOX_DRIVER", global = true)]
    pub driver: Option<DriverSetting>,
    /// Requests an organisation may make in 60 s; 0 is no limit [default: 1000].
    #[arg(long, env = "LEAPBOX_RATE_LIMIT", global = true, value_name = "N")]
    pub rate_limit: Option<u32>,
    /// Most sandboxes with a machine at a time; paused and stopped ones have none [default: 1000].
    #[arg(long, env = "LEAPBOX_MAX_SANDBOXES", global = true, value_name = "N")]
    pub max_sandboxes: Option<u32>,
    /// Sum of the nominal memory of all sandboxes in MiB. Clones share what they have not written, so the sum may be
    /// more than the host has [default: twice the host's memory].
    #[arg(long, env = "LEAPBOX_MEMORY_BUDGET_MIB", global = true, value_name = "MIB")]
    pub memory_budget_mib: Option<u64>,
    /// Most sandboxes of one shape kept ready ahead of use; 0 is none [default: 16].
    #[arg(long, env = "LEAPBOX_POOL_SIZE", global = true, value_name = "N")]
    pub pool_size: Option<u32>,
    /// Nominal memory of the sandboxes kept ready, in MiB [default: half of the memory budget].
    #[arg(long, env = "LEAPBOX_POOL_MEMORY_MIB", global = true, value_name = "MIB")]
    pub pool_memory_mib: Option<u64>,
    /// MiB per second one sandbox may read and write on its disk; 0 is no limit. Firecracker only [default: 0].
    #[arg(long, env = "LEAPBOX_DISK_MIB_PER_S", global = true, value_name = "MIB")]
    pub disk_mib_per_s: Option<u64>,
    /// Operations per second one sandbox may do on its disk; 0 is no limit. Firecracker only [default: 0].
    #[arg(long, env = "LEAPBOX_DISK_OPS_PER_S", global = true, value_name = "N")]
    pub disk_ops_per_s: Option<u64>,
    /// MiB per second one sandbox may send, and as many receive; 0 is no limit. Firecracker only [default: 0].
    #[arg(long, env = "LEAPBOX_NETWORK_MIB_PER_S", global = true, value_name = "MIB")]
    pub network_mib_per_s: Option<u64>,
    /// Bucket or directory to which stored sandboxes are copied, as s3://bucket/prefix or file:///directory. No other
    /// installation may use it. Credentials, region and endpoint of S3 come from the usual AWS_* variables [default:
    /// none; the data directory has the only copy].
    #[arg(long, env = "LEAPBOX_OBJECT_STORE", global = true, value_name = "URL")]
    pub object_store: Option<String>,
    /// With an object store: MiB of stored sandboxes that are kept in the data directory as well [default: 10240].
    #[arg(long, env = "LEAPBOX_ARCHIVE_CACHE_MIB", global = true, value_name = "MIB")]
    pub archive_cache_mib: Option<u64>,
    /// Days that the server runs before it removes what is stored and named by nothing, see `leapbox gc`; 0 removes it
    /// at once [default: 7].
    #[arg(long, env = "LEAPBOX_GARBAGE_GRACE_DAYS", global = true, value_name = "DAYS")]
    pub garbage_grace_days: Option<u16>,
    /// Addresses of the links between sandboxes and host; nothing else on this host may use them
    /// [default: 10.253.0.0/16].
    #[arg(long, env = "LEAPBOX_LINK_BLOCK", global = true, value_name = "CIDR")]
    pub link_block: Option<String>,
    /// Private networks, or single addresses of this host, that a sandbox may reach whose policy names them in its
    /// allow_cidrs; comma separated [default: none].
    #[arg(long, env = "LEAPBOX_EGRESS_PRIVATE_CIDRS", global = true, value_name = "CIDR", value_delimiter = ',')]
    pub egress_private_cidrs: Option<Vec<String>>,
    /// First of the uids that VMMs run under, one for each [default: a range of the installation's own, from 2097152
    /// on].
    #[arg(long, env = "LEAPBOX_BASE_UID", global = true, value_name = "UID")]
    pub base_uid: Option<u32>,
    /// Name servers that sandboxes' queries are forwarded to, as address:port; comma separated [default: those of
    /// /etc/resolv.conf].
    #[arg(long, env = "LEAPBOX_DNS_UPSTREAMS", global = true, value_name = "ADDR", value_delimiter = ',')]
    pub dns_upstreams: Option<Vec<SocketAddr>>,
    /// Format of log lines [default: text].
    #[arg(long, env = "LEAPBOX_LOG_FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
}

impl Settings {
    /// Takes every setting that this source lacks from `below`.
    fn over(self, below: Settings) -> Settings {
        let above = self;
        // A macro, because then a setting that is left out of the list does not compile.
        macro_rules! first_that_is_there {
            ($($setting:ident)*) => { Settings { $($setting: above.$setting.or(below.$setting)),* } };
        }
        first_that_is_there! {
            data_dir config artifacts_dir api gateway metrics domain tls_cert tls_key driver rate_limit max_sandboxes
            memory_budget_mib pool_size pool_memory_mib disk_mib_per_s disk_ops_per_s network_mib_per_s object_store
            archive_cache_mib garbage_grace_days link_block egress_private_cidrs base_uid dns_upstreams log_format
        }
    }
}

/// The reason why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the configuration {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is not a configuration. The cause names the key and the line.
    #[error("the configuration {path} has a mistake")]
    Parse {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    /// A value is outside its bounds.
    #[error("{setting} = {value:?} is refused: {reason}")]
    Refused { setting: &'static str, value: String, reason: &'static str },
    /// It is not a network from which the links of sandboxes can have their addresses.
    #[error("link_block = {value:?} is refused: it must be an IPv4 network like 10.253.0.0/16")]
    LinkBlock {
        value: String,
        #[source]
        source: InvalidBlock,
    },
    /// It is not a network, or one that no policy may open.
    #[error("egress_private_cidrs: {value:?} is refused")]
    PrivateCidr {
        value: String,
        #[source]
        source: CidrError,
    },
}

/// The PEM files of a certificate of the operator's own: chain and private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Every setting, checked. [`Settings`] documents each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is documented in Settings, where users see it")]
pub struct Config {
    pub data_dir: PathBuf,
    pub artifacts_dir: PathBuf,
    pub api: SocketAddr,
    pub gateway: SocketAddr,
    pub metrics: SocketAddr,
    pub domain: String,
    pub tls: Option<TlsFiles>,
    pub driver: DriverSetting,
    pub rate_limit: u32,
    pub max_sandboxes: u32,
    pub memory_budget_mib: u64,
    pub pool_size: u32,
    pub pool_memory_mib: u64,
    pub disk_mib_per_s: u64,
    pub disk_ops_per_s: u64,
    pub network_mib_per_s: u64,
    pub object_store: Option<String>,
    pub archive_cache_mib: u64,
    pub garbage_grace: Duration,
    pub link_block: Ipv4Block,
    pub egress_private_cidrs: Vec<Cidr>,
    /// `None` if it is not configured: the installation's own range, [`leapbox_network::default_base_uid`].
    pub base_uid: Option<u32>,
    pub dns_upstreams: Option<Vec<SocketAddr>>,
    pub log_format: LogFormat,
}

/// Network slots made ahead of use, so that a burst of creates does not wait for namespaces, links and rules. As many
/// as the pool keeps clones of a shape by default.
pub const PREPARED_SLOTS: u32 = 16;

// The settings' maxima. They are above what a host can run, and keep every sum and product of them in range. With both
// at their maximum, the slots still fit into the default link block.
const MOST_SANDBOXES: u32 = 16_384;
const MOST_POOLED: u32 = 4096;
/// 2^43 MiB are 2^63 bytes.
const MOST_MIB: u64 = 1 << 43;
const TOO_MANY_MIB: &str = "it must be at most 8796093022208, which are 2^63 bytes";

const DEFAULT_DATA_DIR: &str = "/var/lib/leapbox";
// Lower uids may belong to people, services and the ranges that Debian gives out for user namespaces: a VMM that its
// guest has taken over would have their rights.
const LEAST_BASE_UID: u32 = 200_000;

impl Config {
    /// Reads the file and lets flags and environment win over it.
    pub fn load(given: Settings) -> Result<Self, ConfigError> {
        let data_dir = given.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        let (path, explicit) = match &given.config {
            Some(path) => (path.clone(), true),
            None => (data_dir.join("config.toml"), false),
        };
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|source| ConfigError::Parse { path, source })?,
            // Only the default file may be missing: a mistyped `--config` must not mean the defaults.
            Err(e) if e.kind() == ErrorKind::NotFound && !explicit => Settings::default(),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        Self::resolve(given.over(file), data_dir, host_memory_mib())
    }

    fn resolve(s: Settings, data_dir: PathBuf, host_memory_mib: u64) -> Result<Self, ConfigError> {
        let memory_budget_mib = s.memory_budget_mib.unwrap_or(host_memory_mib.saturating_mul(2));
        let pool_memory_mib = s.pool_memory_mib.unwrap_or(memory_budget_mib / 2);
        let archive_cache_mib = s.archive_cache_mib.unwrap_or(10 * 1024);
        let (max_sandboxes, pool_size) = (s.max_sandboxes.unwrap_or(1000), s.pool_size.unwrap_or(16));
        Ok(Self {
            artifacts_dir: s.artifacts_dir.unwrap_or_else(|| data_dir.join("artifacts")),
            data_dir,
            api: s.api.unwrap_or(local(8080)),
            gateway: s.gateway.unwrap_or(local(8443)),
            metrics: s.metrics.unwrap_or(local(9090)),
            domain: checked_domain(s.domain)?,
            tls: checked_tls(s.tls_cert, s.tls_key)?,
            driver: s.driver.unwrap_or(DriverSetting::Auto),
            rate_limit: s.rate_limit.unwrap_or(1000),
            max_sandboxes: at_most(MOST_SANDBOXES, "max_sandboxes", max_sandboxes, "it must be at most 16384")?,
            memory_budget_mib: at_most(MOST_MIB, "memory_budget_mib", memory_budget_mib, TOO_MANY_MIB)?,
            pool_size: at_most(MOST_POOLED, "pool_size", pool_size, "it must be at most 4096")?,
            pool_memory_mib: at_most(MOST_MIB, "pool_memory_mib", pool_memory_mib, TOO_MANY_MIB)?,
            disk_mib_per_s: s.disk_mib_per_s.unwrap_or(0),
            disk_ops_per_s: s.disk_ops_per_s.unwrap_or(0),
            network_mib_per_s: s.network_mib_per_s.unwrap_or(0),
            // An empty variable in the environment turns the setting of the file off.
            object_store: s.object_store.filter(|url| !url.is_empty()),
            archive_cache_mib: at_most(MOST_MIB, "archive_cache_mib", archive_cache_mib, TOO_MANY_MIB)?,
            garbage_grace: Duration::from_secs(u64::from(s.garbage_grace_days.unwrap_or(7)) * 24 * 3600),
            link_block: checked_link_block(s.link_block)?,
            egress_private_cidrs: checked_private_cidrs(s.egress_private_cidrs.unwrap_or_default())?,
            base_uid: s.base_uid.map(checked_base_uid).transpose()?,
            dns_upstreams: s.dns_upstreams,
            log_format: s.log_format.unwrap_or(LogFormat::Text),
        })
    }

    /// The directory of one server's own state: database, keys, certificates, machines.
    pub fn state_dir(&self) -> PathBuf {
        self.data_dir.join("state")
    }

    /// Network slots at a time. The pool's clones have slots as well, and the prepared ones must not be missing at the
    /// limit of sandboxes.
    pub fn max_slots(&self) -> u32 {
        self.max_sandboxes + self.pool_size + PREPARED_SLOTS
    }

    /// Bytes of the archives that are kept in the data directory if there is an object store.
    pub fn archive_cache_bytes(&self) -> u64 {
        self.archive_cache_mib << 20
    }
}

/// Returns an address and, for IPv4 loopback, the same port on `::1`, because `*.localhost` resolves to that first.
pub fn with_loopback_twin(address: SocketAddr) -> Vec<SocketAddr> {
    let twin = (address.ip() == Ipv4Addr::LOCALHOST).then(|| (Ipv6Addr::LOCALHOST, address.port()).into());
    std::iter::once(address).chain(twin).collect()
}

fn local(port: u16) -> SocketAddr {
    (IpAddr::V4(Ipv4Addr::LOCALHOST), port).into()
}

fn checked_domain(domain: Option<String>) -> Result<String, ConfigError> {
    let domain = domain.unwrap_or_else(|| "sandbox.localhost".to_owned());
    let label = |l: &str| {
        let inner = l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-')
    };
    // A DNS name has at most 253 characters, and 64 and a dot are left for the sandbox's own label. Clients refuse a
    // certificate for `*.` and a single label.
    if domain.len() <= 180 && domain.contains('.') && domain.split('.').all(label) {
        return Ok(domain);
    }
    let reason = "it must be a DNS name in lower case with at least two labels, and no port";
    Err(ConfigError::Refused { setting: "domain", value: domain, reason })
}

fn checked_tls(cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<TlsFiles>, ConfigError> {
    let alone = |setting, path: &Path| ConfigError::Refused {
        setting,
        value: path.display().to_string(),
        reason: "tls_cert and tls_key only make sense together",
    };
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
        (None, None) => Ok(None),
        (Some(cert), None) => Err(alone("tls_cert", &cert)),
        (None, Some(key)) => Err(alone("tls_key", &key)),
    }
}

fn checked_link_block(text: Option<String>) -> Result<Ipv4Block, ConfigError> {
    let Some(value) = text else { return Ok(Ipv4Block::DEFAULT) };
    value.parse().map_err(|source| ConfigError::LinkBlock { value, source })
}

fn checked_private_cidrs(texts: Vec<String>) -> Result<Vec<Cidr>, ConfigError> {
    let refused = |value: String, error: CidrError| ConfigError::PrivateCidr { value, source: error };
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    texts.map(|text| operator_cidr(&text).map_err(|error| refused(text, error))).collect()
}

fn at_most<N: PartialOrd + ToString>(
    most: N,
    setting: &'static str,
    value: N,
    reason: &'static str,
) -> Result<N, ConfigError> {
    if value <= most {
        return Ok(value);
    }
    Err(ConfigError::Refused { setting, value: value.to_string(), reason })
}

fn checked_base_uid(uid: u32) -> Result<u32, ConfigError> {
    if uid >= LEAST_BASE_UID {
        return Ok(uid);
    }
    let reason = "uids below 200000 may belong to people, services and user namespaces";
    Err(ConfigError::Refused { setting: "base_uid", value: uid.to_string(), reason })
}

/// The host's memory in MiB; 1 GiB if /proc/meminfo cannot be read.
fn host_memory_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(1024, |kib| kib / 1024)
}

#[cfg(test)]
mod tests;
