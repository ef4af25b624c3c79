//! Which bucket, from a URL and the usual `AWS_…` settings.

use super::error::StoreError;
use super::http::Hyper;
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

/// The tries of one request, before the store's own patience begins.
const RETRIES: usize = 3;
const RETRY_FOR: Duration = Duration::from_secs(30);

/// An object store that was configured and whose settings make sense; nothing has been asked of it yet.
#[derive(Clone)]
pub struct RemoteConfig {
    pub(super) remote: Remote,
    /// The folder, if it is one.
    pub(super) folder: Option<PathBuf>,
}

impl RemoteConfig {
    /// `s3://bucket/prefix`, with the settings from this process's environment (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
    /// `AWS_ENDPOINT_URL`, …), or `file:///folder`. Blocking.
    pub fn from_env(url: &str) -> Result<Self, StoreError> {
        let named = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let settings = named.filter(|(name, _)| name.starts_with("AWS_"));
        Self::new(url, settings.filter_map(|(name, value)| Some((name, value.into_string().ok()?))))
    }

    /// The same with these settings, named like the variables. What is not a setting of the object store's is ignored,
    /// as it may be another program's.
    pub fn new(url: &str, settings: impl IntoIterator<Item = (String, String)>) -> Result<Self, StoreError> {
        match url.split_once("://") {
            Some(("s3", place)) => s3(url, place, settings),
            Some(("file", place)) => folder(url, place),
            _ => Err(wrong(url, "it must begin with s3:// or file://")),
        }
    }
}

impl std::fmt::Debug for RemoteConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteConfig").field(&self.remote.url).finish()
    }
}

fn s3(
    url: &str,
    place: &str,
    settings: impl IntoIterator<Item = (String, String)>,
) -> Result<RemoteConfig, StoreError> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(wrong(url, "the bucket's name must follow s3://, as in s3://bucket/prefix"));
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
    let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint].map(value);
    let allowed = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)) == "true";
    if !allowed && endpoints.iter().any(|endpoint| endpoint.starts_with("http://")) {
        return Err(wrong(url, "its endpoint is http://, which needs AWS_ALLOW_HTTP=true"));
    }
    let backoff = BackoffConfig::default();
    let store = builder
        .with_bucket_name(bucket)
        .with_http_connector(Hyper)
        .with_retry(RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_FOR })
        // Single deletions: part of every S3, while not every one can delete in bulk.
        .with_disable_bulk_delete(true)
        .build()
        .map_err(unusable)?;
    Ok(config(url, &endpoints.join(" "), Arc::new(store), prefix, None))
}

fn folder(url: &str, place: &str) -> Result<RemoteConfig, StoreError> {
    let path = PathBuf::from(place);
    if !path.is_absolute() {
        return Err(wrong(url, "the folder's path must be absolute, as in file:///srv/archives"));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(FileError::of("creating", &path))?;
    let store = LocalFileSystem::new_with_prefix(&path);
    let store = store.map_err(|source| StoreError::Settings { url: url.to_owned(), source })?;
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
    let url = url.trim_end_matches('/').to_owned();
    let identity = format!("{url} {server}").trim_end().to_owned();
    RemoteConfig { remote: Remote { objects, prefix, url, identity, ours: Arc::default() }, folder }
}

fn wrong(url: &str, why: &'static str) -> StoreError {
    StoreError::Url { url: url.to_owned(), why }
}

/// Removes what interrupted uploads left in a folder that stands in for a bucket; S3 has rules of its own for that
/// (`AbortIncompleteMultipartUpload`).
pub(super) fn clear_staged(folder: &std::path::Path) -> Result<(), FileError> {
    let list = |dir: &std::path::Path| std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    for entry in list(folder).map_err(FileError::of("listing", folder))? {
        let dir = entry.path();
        if !entry.file_type().map_err(FileError::of("looking at", &dir))?.is_dir() {
            continue;
        }
        for file in list(&dir).map_err(FileError::of("listing", &dir))? {
            if file.file_name().as_encoded_bytes().contains(&b'#') {
                std::fs::remove_file(file.path()).map_err(FileError::of("removing", file.path()))?;
            }
        }
    }
    Ok(())
}
