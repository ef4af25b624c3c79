//! Configures the bucket from a URL and the usual `AWS_…` settings.

use super::error::StoreError;
use super::http::Hyper;
use super::owner::OWNER;
use super::remote::Remote;
use leapbox_errors::FileError;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::ClientConfigKey;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

// For short faults of a single request. A wake waits for these, so they are few; background work is tried again by
// `transfer`, with longer pauses.
const RETRIES: usize = 3;
const RETRY_FOR: Duration = Duration::from_secs(30);

/// An object store whose settings are consistent. No request has been made to it yet.
#[derive(Clone)]
pub struct RemoteConfig {
    pub(super) remote: Remote,
    /// The path, if the bucket is a directory.
    pub(super) folder: Option<PathBuf>,
}

impl RemoteConfig {
    /// Configures `s3://bucket/prefix`, with the settings in this process's environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_REGION`, `AWS_ENDPOINT_URL`, …), or the directory `file:///path`. Blocking.
    pub fn from_env(url: &str) -> Result<Self, StoreError> {
        let named = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let settings = named.filter(|(name, _)| name.starts_with("AWS_"));
        Self::new(url, settings.filter_map(|(name, value)| Some((name, value.into_string().ok()?))))
    }

    /// Does the same with the given settings, named like the variables. Names that the object store does not know are
    /// ignored, because other programs have `AWS_…` variables as well.
    pub fn new(url: &str, settings: impl IntoIterator<Item = (String, String)>) -> Result<Self, StoreError> {
        match url.split_once("://") {
            Some(("s3", rest)) => s3(url, rest, settings),
            Some(("file", rest)) => folder(url, rest),
            _ => Err(invalid(url, "it must begin with s3:// or file://")),
        }
    }
}

impl std::fmt::Debug for RemoteConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteConfig").field(&self.remote.url).finish()
    }
}

fn s3(url: &str, rest: &str, settings: impl IntoIterator<Item = (String, String)>) -> Result<RemoteConfig, StoreError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(invalid(url, "the bucket's name must follow s3://, as in s3://bucket/prefix"));
    }
    let prefix = Path::parse(prefix.trim_end_matches('/'))
        .map_err(|source| StoreError::Prefix { url: url.to_owned(), source })?;
    let unusable = |source| StoreError::Settings { url: url.to_owned(), source };
    let mut builder = AmazonS3Builder::new();
    for (name, value) in settings {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let value = |key| builder.get_config_value(&key).unwrap_or_default();
    // The HTTP client would refuse each request. Here, the operator learns it at the start and not from the first
    // upload.
    let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint].map(value);
    let allowed = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)) == "true";
    if !allowed && endpoints.iter().any(|endpoint| endpoint.starts_with("http://")) {
        return Err(invalid(url, "its endpoint is http://, which needs AWS_ALLOW_HTTP=true"));
    }
    let backoff = BackoffConfig::default();
    let store = builder
        .with_bucket_name(bucket)
        .with_http_connector(Hyper)
        .with_retry(RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_FOR })
        // Single deletions, because not every server that speaks S3 can delete in bulk.
        .with_disable_bulk_delete(true)
        .build()
        .map_err(unusable)?;
    Ok(config(url, &endpoints.join(" "), Arc::new(store), prefix, None))
}

fn folder(url: &str, rest: &str) -> Result<RemoteConfig, StoreError> {
    let path = PathBuf::from(rest);
    if !path.is_absolute() {
        return Err(invalid(url, "the directory's path must be absolute, as in file:///srv/archives"));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(FileError::of("creating", &path))?;
    let store = LocalFileSystem::new_with_prefix(&path);
    let store = store.map_err(|source| StoreError::Settings { url: url.to_owned(), source })?;
    // Synced, because a copy here may be the only one after an eviction. The cleanup removes an archive's empty
    // directory together with its last object, as there would be none in S3.
    let store = store.with_fsync(true).with_automatic_cleanup(true);
    Ok(config(url, "", Arc::new(store), Path::default(), Some(path)))
}

fn config(
    url: &str,
    server: &str,
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    folder: Option<PathBuf>,
) -> RemoteConfig {
    // Without a slash at its end, so that adding one in the configuration does not make it another bucket.
    let url = url.trim_end_matches('/').to_owned();
    let identity = format!("{url} {server}").trim_end().to_owned();
    RemoteConfig { remote: Remote { objects, prefix, url, identity, found_sequence: Arc::default() }, folder }
}

fn invalid(url: &str, why: &'static str) -> StoreError {
    StoreError::Url { url: url.to_owned(), why }
}

/// Removes what interrupted uploads left in a directory that stands in for a bucket. In S3 it is a rule of the bucket
/// that does it (`AbortIncompleteMultipartUpload`).
pub(super) fn clear_staged(folder: &std::path::Path) -> Result<(), FileError> {
    let list = |dir: &std::path::Path| std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    for entry in list(folder).map_err(FileError::of("listing", folder))? {
        let path = entry.path();
        if !entry.file_type().map_err(FileError::of("looking at", &path))?.is_dir() {
            // Only what is left of the owner's object: other files beside it are somebody else's.
            let name = entry.file_name();
            if name.as_encoded_bytes().strip_prefix(OWNER.as_bytes()).is_some_and(|rest| rest.starts_with(b"#")) {
                std::fs::remove_file(&path).map_err(FileError::of("removing", &path))?;
            }
            continue;
        }
        for file in list(&path).map_err(FileError::of("listing", &path))? {
            // `object_store` writes `<name>#<n>` and renames it. No part has such a name.
            if file.file_name().as_encoded_bytes().contains(&b'#') {
                std::fs::remove_file(file.path()).map_err(FileError::of("removing", file.path()))?;
            }
        }
    }
    Ok(())
}
