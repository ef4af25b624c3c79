//! Reports what is stored: archives of sandboxes, bases, and the key that archives are encrypted with.

use super::check::Check;
use crate::config::Config;
use crate::state::State;
use leapbox_db::{Db, DbError, SetAside, SweepWord};
use leapbox_errors::chain;
use leapbox_storage::ServerKey;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const MIB: u64 = 1024 * 1024;

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let state = State::at(config.state_dir());
    // `warm` is the directory of the bases, which `lifecycle` makes there.
    vec![archives(config, &state), bases(&config.state_dir().join("warm")), key(&state), set_aside(&state)]
}

/// Reports what the garbage collection has set aside, and what it holds back.
fn set_aside(state: &State) -> Check {
    const NAME: &str = "set aside";
    match noted(&state.database()) {
        Ok(Some((rows, word))) => judged(NAME, &rows, &word),
        // An earlier version's, or none yet: the next start of the server makes the table.
        Ok(None) => Check::green(NAME, "nothing"),
        Err(error) => Check::yellow(NAME, format!("the database cannot be read: {}", chain(&error)), "run as root"),
    }
}

fn judged(name: &'static str, rows: &[SetAside], word: &SweepWord) -> Check {
    let mib = rows.iter().map(|row| row.bytes).sum::<u64>() / MIB;
    if word.held_back > 0 && !word.allowed {
        return Check::yellow(
            name,
            format!("{} archives are held back: no row of the database names them", word.held_back),
            "is it the right database? If it is: leapbox gc --allow",
        );
    }
    match rows.len() {
        0 => Check::green(name, "nothing"),
        count => Check::green(name, format!("{count} that nothing names, {mib} MiB; `leapbox gc` shows them")),
    }
}

/// What the database says; `None` if it does not exist or has no such table.
fn noted(path: &Path) -> Result<Option<(Vec<SetAside>, SweepWord)>, DbError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (true, Ok(runtime)) = (path.is_file(), runtime) else { return Ok(None) };
    runtime.block_on(async {
        let db = Db::open_for_reading(path).await?;
        let noted = match (db.set_aside_list().await, db.sweep_word().await) {
            (Ok(rows), Ok(word)) => Some((rows, word)),
            _ => None,
        };
        db.close().await;
        Ok(noted)
    })
}

fn archives(config: &Config, state: &State) -> Check {
    const NAME: &str = "stored sandboxes";
    let (count, bytes) = folders(&state.archives_dir(), "ckp-");
    let place = match &config.object_store {
        Some(url) => format!("; copies go to {url}, at most {} MiB are kept here", config.archive_cache_mib),
        None => String::new(),
    };
    Check::green(NAME, format!("{count} paused, stopped or snapshots, {} MiB{place}", bytes / MIB))
}

fn bases(dir: &Path) -> Check {
    let (count, bytes) = folders(dir, "");
    Check::green("bases", format!("{count} bases that sandboxes start from, {} MiB", bytes / MIB))
}

fn key(state: &State) -> Check {
    const NAME: &str = "server key";
    let is_used = folders(&state.archives_dir(), "").0 > 0;
    match ServerKey::load(&state.server_key()) {
        Ok(None) if is_used => Check::red(
            NAME,
            "missing, and sandboxes were stored with it: the server does not start",
            "put it back from a backup: what is stored cannot be read without it",
        ),
        // Read and checked, not only looked for: a damaged key is found before a sandbox has to be woken with it.
        Ok(Some(_)) => Check::green(NAME, "there; what is stored cannot be read without it: keep a copy elsewhere"),
        Ok(None) => Check::green(NAME, "not made yet; the first start of the server makes it"),
        Err(error) => Check::red(
            NAME,
            error.to_string(),
            "put the key back as it was: paused sandboxes cannot be woken without it",
        ),
    }
}

/// Counts the finished directories in `dir` whose names begin with `prefix`, and the bytes that their files take on the
/// disk.
fn folders(dir: &Path, prefix: &str) -> (usize, u64) {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    // A name with a dot in front belongs to one that is being written.
    let is_counted = |name: &str| name.starts_with(prefix) && !name.starts_with('.');
    let found = entries(dir).filter(|entry| is_counted(&entry.file_name().to_string_lossy()));
    found.fold((0, 0), |(count, bytes), folder| {
        let files = entries(&folder.path()).filter_map(|file| file.metadata().ok());
        // Blocks and not the length, because memory and disks are sparse files. stat(2) counts blocks of 512 bytes.
        (count + 1, bytes + files.map(|meta| meta.blocks() * 512).sum::<u64>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_told_with_what_to_do() {
        let word = SweepWord { held_back: 30, ..SweepWord::default() };
        let check = judged("set aside", &[], &word);
        assert!(
            check.found.contains("30 archives") && check.advice.is_some_and(|advice| advice.contains("gc --allow"))
        );
    }

    #[test]
    fn finished_folders_are_counted_with_what_they_take() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["ckp-a", "ckp-b", ".ckp-c", "base-d"] {
            std::fs::create_dir(dir.path().join(name)).expect("made");
            std::fs::write(dir.path().join(name).join("memory"), vec![1; 8192]).expect("written");
        }
        assert_eq!(folders(dir.path(), "ckp-"), (2, 16384));
        assert_eq!(folders(&dir.path().join("nothing"), ""), (0, 0));
    }
}
