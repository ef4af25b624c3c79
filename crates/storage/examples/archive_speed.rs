//! How fast archives are written and read here: `cargo run --release -p leapbox-storage --example archive_speed [FOLDER]`.
//!
//! 512 MiB of memory that compresses as a guest's does (about half), and 512 MiB that does not at all.

use leapbox_ids::{ArchiveId, CheckpointId};
use leapbox_storage::{ArchiveStore, Run, Runs, ServerKey, StoreConfig};
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let root = base.join(format!("archive-speed-{}", std::process::id()));
    std::fs::create_dir(&root)?;
    let outcome = measure(&root);
    std::fs::remove_dir_all(&root)?;
    outcome
}

fn measure(root: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let key = ServerKey::load_or_create(&root.join("key"))?;
    let store = ArchiveStore::open(StoreConfig {
        dir: root.join("archives"),
        key,
        remote: None,
        cache_bytes: None,
        installation: "measured".to_owned(),
        known_sequence: 0,
    })?;
    let runtime = tokio::runtime::Runtime::new()?;
    for (kind, noise) in [("half", 2), ("none", 1)] {
        let block = block(noise);
        let runs: Runs = Box::new((0..SIZE).map(move |n| Ok(Run { offset: n * MIB, bytes: block.clone() })));
        let begun = Instant::now();
        let id = ArchiveId::Checkpoint(CheckpointId::generate());
        let mut writer = store.begin(&id, None)?;
        writer.runs("memory", runs)?;
        let written = begun.elapsed();
        let sealed = writer.seal(&())?;
        println!(
            "compresses {kind}: {:.0} MiB/s written ({:.0} with all synced), {} of {} MiB stored",
            SIZE as f64 / written.as_secs_f64(),
            SIZE as f64 / begun.elapsed().as_secs_f64(),
            sealed.stored_bytes / MIB,
            SIZE
        );
        let archive = runtime.block_on(store.get(&id))?;
        let begun = Instant::now();
        let bytes: u64 =
            archive.runs("memory")?.map(|run| run.map(|run| run.bytes.len() as u64)).sum::<Result<u64, _>>()?;
        let rate = bytes as f64 / MIB as f64 / begun.elapsed().as_secs_f64();
        println!("compresses {kind}: {rate:.0} MiB/s read");
    }
    Ok(())
}

/// A mebibyte of pages; one of `noise` bytes in each is random, and the rest are text.
fn block(noise: usize) -> Vec<u8> {
    let mut random = vec![0; MIB as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut random);
    let text = b"the quick brown fox jumps over the lazy dog and runs away; ".iter().cycle();
    let page = |(at, (random, text)): (usize, (u8, &u8))| if at / 256 % noise == 0 { random } else { *text };
    random.into_iter().zip(text).enumerate().map(page).collect()
}
