//! The same over S3's protocol, with its own faults.

use super::server::S3;
use super::*;
use crate::run::RUN_MAX;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn settings(endpoint: &str) -> Vec<(String, String)> {
    let settings = [
        ("AWS_ACCESS_KEY_ID", "user"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_PAGER", "of another program"),
    ];
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn open(place: &Place, endpoint: &str) -> ArchiveStore {
    let remote = RemoteConfig::new("s3://archives/host/one", settings(endpoint)).expect("settings");
    ArchiveStore::open(place.config(Some(remote))).expect("opened")
}

fn objects(s3: &S3) -> BTreeSet<String> {
    s3.objects.lock().expect("unpoisoned").keys().cloned().collect()
}

/// Larger than a piece of an upload.
fn store_large(archives: &ArchiveStore, id: &str, megabytes: u64) {
    let mut bytes = vec![0; RUN_MAX];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let runs = (0..megabytes).map(move |n| Ok(Run { offset: n << 20, bytes: bytes.clone() }));
    let mut writer = archives.begin(&archive_id(id), None).expect("begun");
    writer.runs("memory", Box::new(runs)).expect("written");
    writer.seal(&id).expect("sealed").pin.release();
}

#[tokio::test]
async fn archives_go_to_s3_and_come_back_and_go() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    let of_one = ["memory", "state", MANIFEST].map(|name| format!("host/one/{}/{name}", archive_name("ckp-1")));
    let expected = of_one.into_iter().chain(["host/one/installation.json".to_owned()]).collect();
    assert_eq!(objects(&s3), expected);
    assert!(s3.log.lock().expect("unpoisoned").last().is_some_and(|last| last.ends_with(MANIFEST)), "manifest last");
    drop(archives);
    std::fs::remove_dir_all(place.dir()).expect("lost");
    let archives = open(&place, &endpoint);
    check(&archives, "ckp-1").await;
    archives.remove(&archive_id("ckp-1")).await.expect("removed");
    archives.settle().await.expect("removed there");
    assert_eq!(objects(&s3), set(&["host/one/installation.json"]));
    let log = s3.log.lock().expect("unpoisoned");
    let first = log.iter().find(|line| line.starts_with("DELETE")).expect("one");
    assert!(first.ends_with(MANIFEST), "manifest first: {log:?}");
}

#[tokio::test]
async fn the_number_in_the_bucket_is_raised_before_the_archive_is_complete() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store_stamped(&archives, "ckp-1", stamp("ins-1", 4));
    archives.settle().await.expect("uploaded");
    let log = s3.log.lock().expect("unpoisoned");
    let puts: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix("PUT host/one/")).collect();
    let manifest = format!("{}/{MANIFEST}", archive_name("ckp-1"));
    assert!(puts.ends_with(&["installation.json", manifest.as_str()]), "{puts:?}");
}

#[tokio::test]
async fn a_bucket_of_the_same_name_on_another_server_is_another_bucket() {
    let (place, (_s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    drop(archives);
    let (other, endpoint) = S3::start().await;
    let archives = open(&place, &endpoint);
    assert_eq!(archives.usage().pending, 1);
    archives.settle().await.expect("uploaded");
    assert_eq!(objects(&other).len(), 4);
}

#[tokio::test]
async fn large_parts_go_up_in_pieces_and_come_back_whole() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store_large(&archives, "ckp-1", 30);
    archives.settle().await.expect("uploaded");
    assert_eq!(s3.count(&format!("PUT host/one/{}/memory", archive_name("ckp-1"))), 4, "of 8 MiB each");
    assert!(s3.pieces.lock().expect("unpoisoned").is_empty());
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-1"))).expect("lost");
    archives.get(&archive_id("ckp-1")).await.expect("there").verify().expect("whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_get_one_download() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-1"))).expect("lost");
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let archives = archives.clone();
            tokio::spawn(async move { check(&archives, "ckp-1").await })
        })
        .collect();
    for one in asking {
        one.await.expect("got it");
    }
    assert_eq!(s3.count(&format!("GET host/one/{}/memory", archive_name("ckp-1"))), 1);
    let missing = archive_id("ckp-2");
    let failing: Vec<_> = (0..20).map(|_| archives.get(&missing)).collect();
    for outcome in futures::future::join_all(failing).await {
        assert!(matches!(outcome, Err(StoreError::NotFound { .. })));
    }
}

#[tokio::test]
async fn a_download_goes_on_when_who_asked_goes_away() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-1"))).expect("lost");
    archives.inner.index.forget(&archive_name("ckp-1"));
    let first = format!("GET host/one/{}/", archive_name("ckp-1"));
    let begun = async {
        while s3.count(&first) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let id = archive_id("ckp-1");
    tokio::select! {
        () = begun => {}
        got = archives.get(&id) => drop(got.expect("there")),
    }
    let come = async {
        while !place.dir().join(archive_name("ckp-1")).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), come).await.expect("it came all the same");
}

#[tokio::test]
async fn a_passing_failure_is_tried_again_at_once() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store(&archives, "ckp-1");
    s3.failures.store(2, Ordering::SeqCst);
    archives.settle().await.expect("uploaded");
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-1"))).expect("lost");
    s3.failures.store(2, Ordering::SeqCst);
    check(&archives, "ckp-1").await;
}

#[tokio::test]
async fn a_lasting_failure_keeps_everything_here_until_it_is_over() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    s3.forbidden.store(true, Ordering::SeqCst);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (archives, stop) = (archives.clone(), stop.clone());
        async move { archives.run(stop).await }
    });
    store(&archives, "ckp-1");
    let until = |done: fn(&S3, &ArchiveStore) -> bool| {
        let (s3, archives) = (Arc::clone(&s3), archives.clone());
        let wait = async move {
            while !done(&s3, &archives) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
    };
    until(|s3, _| s3.count("PUT") > 0).await.expect("tried");
    check(&archives, "ckp-1").await;
    assert_eq!(archives.usage().pending, 1);
    s3.forbidden.store(false, Ordering::SeqCst);
    until(|_, archives| archives.usage().uploaded == 1).await.expect("uploaded in the end");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("it stops").expect("soundly");
}

#[tokio::test]
async fn an_upload_that_is_no_longer_wanted_leaves_no_piece() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store_large(&archives, "ckp-1", 60);
    let uploading = archives.settle();
    let removing = async {
        while s3.pieces.lock().expect("unpoisoned").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        archives.remove(&archive_id("ckp-1")).await.expect("removed");
    };
    let (uploaded, ()) = tokio::join!(uploading, removing);
    uploaded.expect("that is no error");
    assert_eq!(objects(&s3), set(&["host/one/installation.json"]));
    assert!(s3.pieces.lock().expect("unpoisoned").is_empty());
    assert_eq!(s3.count(&format!("PUT host/one/{}/{MANIFEST}", archive_name("ckp-1"))), 0);
}

#[tokio::test]
async fn one_that_is_written_anew_under_its_name_during_its_upload_is_uploaded_itself() {
    let (place, (s3, endpoint)) = (Place::new(), S3::start().await);
    let archives = open(&place, &endpoint);
    store_large(&archives, "base-1", 60);
    let replacing = async {
        while s3.pieces.lock().expect("unpoisoned").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        archives.remove(&archive_id("base-1")).await.expect("removed");
        store(&archives, "base-1");
    };
    let (uploaded, ()) = tokio::join!(archives.settle(), replacing);
    uploaded.expect("no error");
    archives.settle().await.expect("uploaded");
    std::fs::remove_dir_all(place.dir().join(archive_name("base-1"))).expect("lost");
    check(&archives, "base-1").await;
}

#[test]
fn settings_that_cannot_work_are_refused_at_start_and_say_why() {
    let refused = |url: &str, more: &[(&str, &str)]| {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        RemoteConfig::new(url, more).expect_err("refused").to_string()
    };
    for url in ["", "bucket", "s3://", "s3:///prefix", "http://bucket", "file://relative", "s3://b?x", "s3://b/a//c"] {
        let error = refused(url, &[]);
        assert!(error.contains("cannot be the object store") && error.starts_with(url), "{error}");
    }
    let plain = [("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")];
    assert!(refused("s3://b", &plain).contains("AWS_ALLOW_HTTP"));
    assert!(refused("s3://b", &[("AWS_ACCESS_KEY_ID", "alone")]).contains("settings"));
    let sound = RemoteConfig::new("s3://bucket/a/prefix/", settings("http://127.0.0.1:9000")).expect("sound");
    assert_eq!(format!("{sound:?}"), r#"RemoteConfig("s3://bucket/a/prefix")"#);
}
