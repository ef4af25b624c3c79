//! Garbage collection takes what nothing names, whatever happens meanwhile.

use super::*;
use proptest::prelude::*;

#[tokio::test]
async fn a_sweep_takes_what_nothing_names_here_and_in_the_bucket() {
    let place = Place::new();
    let archives = place.with_bucket();
    for id in ["ckp-1", "ckp-2", "ckp-3"] {
        store(&archives, id);
    }
    archives.settle().await.expect("uploaded");
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-3"))).expect("lost here");
    std::fs::create_dir(place.bucket().join(archive_name("ckp-4"))).expect("made");
    std::fs::write(place.bucket().join(archive_name("ckp-4")).join("memory"), b"of an interrupted upload")
        .expect("written");
    drop(archives);
    let archives = place.with_bucket();
    let swept = archives.sweep().await.keep_only(&set(&["ckp-1"])).await.expect("swept");
    assert_eq!(swept, Swept { local: 1, remote: 3, lost: 0 });
    archives.settle().await.expect("removed there");
    assert_eq!((names(&place.dir()), names(&place.bucket())), (set(&["ckp-1"]), set(&["ckp-1"])));
    check(&archives, "ckp-1").await;
}

#[tokio::test]
async fn a_sweep_finds_what_is_here_or_in_the_bucket_and_not_what_is_being_removed() {
    let place = Place::new();
    let archives = place.with_bucket();
    for id in ["ckp-1", "ckp-2", "ckp-3"] {
        store(&archives, id);
    }
    archives.settle().await.expect("uploaded");
    drop(archives);
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-2"))).expect("lost here");
    let archives = place.with_bucket();
    archives.remove(&archive_id("ckp-3")).await.expect("removed here");
    let expected = [("ckp-1", archives.usage().bytes), ("ckp-2", 0)];
    let expected = expected.map(|(id, bytes)| FoundArchive { id: archive_name(id), bytes });
    assert_eq!(archives.sweep().await.found(), expected);
}

#[tokio::test]
async fn what_is_pinned_or_was_since_the_sweep_began_stays() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "base-1");
    store(&archives, "base-2");
    archives.settle().await.expect("uploaded");
    let writing = archives.begin(&archive_id("ckp-1"), None).expect("begun");
    let sealed = write(&archives, "ckp-2");
    let sweep = archives.sweep().await;
    // All of this is after the question to the database, and so cannot be in its answer.
    sealed.pin.release();
    store(&archives, "ckp-3");
    archives.hold(&archive_id("base-1")).await.expect("asked").expect("there").release();
    let swept = sweep.keep_only(&set(&[])).await.expect("swept");
    assert_eq!(swept, Swept { local: 1, remote: 1, lost: 0 });
    archives.settle().await.expect("done");
    writing.seal(&"ckp-1").expect("not disturbed").pin.release();
    assert_eq!(names(&place.dir()), set(&["base-1", "ckp-1", "ckp-2", "ckp-3"]));
    assert_eq!(names(&place.bucket()), set(&["base-1", "ckp-2", "ckp-3"]));
    let swept = archives.sweep().await.keep_only(&set(&[])).await.expect("swept");
    assert_eq!(swept.local, 4, "next time, what is unnamed then");
}

#[tokio::test]
async fn a_sweep_that_is_dropped_takes_nothing_and_does_not_stand_in_the_way() {
    let place = Place::new();
    let archives = place.alone();
    store(&archives, "ckp-1");
    drop(archives.sweep().await);
    check(&archives, "ckp-1").await;
    assert_eq!(archives.sweep().await.keep_only(&set(&[])).await.expect("swept").local, 1);
    assert_eq!(names(&place.dir()), set(&[]));
}

#[tokio::test]
async fn a_folder_that_is_no_archives_is_not_uploaded_and_a_sweep_takes_it() {
    let place = Place::new();
    drop(place.with_bucket());
    std::fs::create_dir(place.dir().join("ckp-planted")).expect("made");
    let archives = place.with_bucket();
    archives.settle().await.expect("nothing to upload");
    assert_eq!(names(&place.bucket()), set(&[]));
    let kept = BTreeSet::from(["ckp-planted".to_owned()]);
    assert_eq!(archives.sweep().await.keep_only(&kept).await.expect("swept").local, 0, "while it is kept, it stays");
    assert_eq!(archives.sweep().await.keep_only(&set(&[])).await.expect("swept").local, 1);
    assert_eq!(names(&place.dir()), set(&[]));
}

#[tokio::test]
async fn what_the_bucket_lost_is_uploaded_again() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    archives.settle().await.expect("uploaded");
    std::fs::remove_file(place.bucket().join(archive_name("ckp-1")).join(MANIFEST)).expect("lost there");
    let swept = archives.sweep().await.keep_only(&set(&["ckp-1"])).await.expect("swept");
    assert_eq!(swept, Swept { local: 0, remote: 0, lost: 1 });
    archives.settle().await.expect("uploaded");
    std::fs::remove_dir_all(place.dir().join(archive_name("ckp-1"))).expect("lost here");
    check(&archives, "ckp-1").await;
}

#[tokio::test]
async fn a_bucket_that_cannot_be_listed_does_not_keep_the_folder_from_being_swept() {
    let place = Place::new();
    let archives = place.with_bucket();
    store(&archives, "ckp-1");
    std::fs::create_dir(place.bucket().join("installation.json")).expect("in the way");
    let sweep = archives.sweep().await;
    let found = FoundArchive { id: archive_name("ckp-1"), bytes: archives.usage().bytes };
    assert_eq!(sweep.found(), [found]);
    assert!(sweep.keep_only(&set(&[])).await.is_err());
    assert_eq!(names(&place.dir()), set(&[]));
}

#[derive(Debug, Clone)]
enum Step {
    Write,
    WriteUnreferenced,
    Unname(usize),
    Remove(usize),
    Sweep,
    Settle,
    Get(usize),
    Restart,
    LoseFolder,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Write),
        2 => Just(Step::WriteUnreferenced),
        2 => (0_usize..9).prop_map(Step::Unname),
        1 => (0_usize..9).prop_map(Step::Remove),
        2 => Just(Step::Sweep),
        3 => Just(Step::Settle),
        3 => (0_usize..9).prop_map(Step::Get),
        1 => Just(Step::Restart),
        1 => Just(Step::LoseFolder),
    ]
}

/// The steps against the store; `named` is what a database would say.
async fn walk(place: &Place, steps: Vec<Step>) {
    let open = || place.with_cache(700_000);
    let mut archives = open();
    let (mut named, mut settled, mut next) = (BTreeSet::<String>::new(), BTreeSet::new(), 0);
    let ids =
        |named: &BTreeSet<String>| -> BTreeSet<String> { named.iter().map(|short| archive_name(short)).collect() };
    let nth = |set: &BTreeSet<String>, n: usize| set.iter().nth(n % set.len().max(1)).cloned();
    for step in steps {
        match step {
            Step::Write => {
                let sealed = write(&archives, &format!("ckp-{next}"));
                named.insert(format!("ckp-{next}"));
                sealed.pin.release();
                next += 1;
            }
            Step::WriteUnreferenced => {
                store(&archives, &format!("ckp-{next}"));
                next += 1;
            }
            Step::Unname(n) => drop(nth(&named, n).map(|id| named.remove(&id))),
            Step::Remove(n) => {
                if let Some(id) = nth(&named, n) {
                    named.remove(&id);
                    archives.remove(&archive_id(&id)).await.expect("removed");
                }
            }
            Step::Sweep => drop(archives.sweep().await.keep_only(&ids(&named)).await.expect("swept")),
            Step::Settle => {
                archives.settle().await.expect("settled");
                settled = named.clone();
            }
            Step::Get(n) => {
                if let Some(id) = nth(&named, n) {
                    check(&archives, &id).await;
                }
            }
            Step::Restart => {
                drop(archives);
                archives = open();
            }
            Step::LoseFolder => {
                drop(archives);
                std::fs::remove_dir_all(place.dir()).expect("lost");
                archives = open();
                named.retain(|id| settled.contains(id));
            }
        }
    }
    archives.sweep().await.keep_only(&ids(&named)).await.expect("swept");
    archives.settle().await.expect("settled");
    for id in &named {
        check(&archives, id).await;
    }
    let folders = ids(&named);
    assert_eq!(names(&place.bucket()), folders, "all that is named and nothing else");
    assert!(names(&place.dir()).is_subset(&folders));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_happens_named_archives_are_there_and_others_go(steps in proptest::collection::vec(step(), 0..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(walk(&Place::new(), steps));
    }
}
