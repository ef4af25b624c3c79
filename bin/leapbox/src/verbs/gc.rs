//! `leapbox gc`: shows what is set aside, that is, stored and named by nothing, and gives the server's garbage
//! collection the operator's word. It reads and writes the database; a running server acts within seconds, another one
//! when it is started.

use crate::config::Config;
use crate::state::State;
use leapbox_db::{Db, DbError, SetAside, SetAsideKind, SweepWord};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `leapbox gc`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Let the server set aside what it holds back because it is a large share of everything stored.
    #[arg(long)]
    allow: bool,
    /// Have what is set aside removed now, before its time. It cannot be had back.
    #[arg(long)]
    now: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The reason why `leapbox gc` failed.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// There is no database: nothing was set up in this data directory.
    #[error("{path} is missing: run `leapbox setup`")]
    NotSetUp { path: PathBuf },
    #[error("reading the database")]
    Database(#[from] DbError),
    /// The async runtime that the database needs could not be started.
    #[error("starting the runtime for the database")]
    Runtime(#[source] std::io::Error),
}

/// Shows what is set aside, and writes the operator's word.
pub fn run(config: &Config, args: &Args) -> Result<(), GcError> {
    let state = State::at(config.state_dir());
    // Opening would make an empty database, which hides a mistyped --data-dir.
    let path = state.database();
    if !path.is_file() {
        return Err(GcError::NotSetUp { path });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(GcError::Runtime)?;
    let (set_aside, word) = runtime.block_on(async {
        let db = Db::open(&path).await?;
        let done = act(&db, args).await;
        // Before the process ends, so that SQLite writes its log back into the database.
        db.close().await;
        done
    })?;
    let text = match args.json {
        true => as_json(&set_aside, &word, config.garbage_grace),
        false => as_text(&set_aside, &word, config.garbage_grace, state.read_serving().is_some()),
    };
    println!("{text}");
    Ok(())
}

async fn act(db: &Db, args: &Args) -> Result<(Vec<SetAside>, SweepWord), DbError> {
    let word = db.sweep_word().await?;
    let given = SweepWord { allowed: word.allowed || args.allow, remove_now: word.remove_now || args.now, ..word };
    if given != word {
        db.sweep_word_update(&given).await?;
    }
    Ok((db.set_aside_list().await?, given))
}

fn as_text(set_aside: &[SetAside], word: &SweepWord, grace: Duration, serves: bool) -> String {
    let mut lines: Vec<String> = set_aside.iter().map(|one| line(one, grace)).collect();
    let mib = set_aside.iter().map(|one| one.bytes).sum::<u64>() >> 20;
    lines.push(match set_aside.len() {
        0 => "Nothing is set aside.".to_owned(),
        count => format!("{count} set aside, {mib} MiB. What a database names again is no longer set aside."),
    });
    let when = if serves { "within seconds" } else { "when the server is started" };
    if word.allowed || word.remove_now {
        lines.push(format!("The server acts on your word {when}."));
    } else if word.held_back > 0 {
        lines.push(format!(
            "{} archives are held back: they are a large share of everything stored, and no row names them. Is this the \
             right database? If it is, `leapbox gc --allow` lets them be set aside.",
            word.held_back
        ));
    }
    lines.join("\n")
}

fn line(one: &SetAside, grace: Duration) -> String {
    let left = grace.as_secs().saturating_sub(one.waited_s);
    let (hours, mib) = (left / 3600, one.bytes >> 20);
    let what = match one.kind {
        SetAsideKind::Archive => format!("{mib} MiB"),
        SetAsideKind::Machine => "a machine that runs".to_owned(),
    };
    format!("{}  {what}  removed after {hours} more hours of the server's running", one.name)
}

fn as_json(set_aside: &[SetAside], word: &SweepWord, grace: Duration) -> String {
    let one = |one: &SetAside| {
        let kind = match one.kind {
            SetAsideKind::Archive => "archive",
            SetAsideKind::Machine => "machine",
        };
        let left_s = grace.as_secs().saturating_sub(one.waited_s);
        json!({"name": one.name, "kind": kind, "bytes": one.bytes, "waited_s": one.waited_s, "left_s": left_s})
    };
    let set_aside: Vec<_> = set_aside.iter().map(one).collect();
    json!({"set_aside": set_aside, "held_back": word.held_back}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86400);

    #[test]
    fn what_is_set_aside_is_shown_with_the_time_it_has_left() {
        let one = SetAside { name: "ckp-1".to_owned(), kind: SetAsideKind::Archive, bytes: 5 << 20, waited_s: 3600 };
        let text = as_text(&[one], &SweepWord::default(), DAY, true);
        assert!(text.contains("ckp-1  5 MiB  removed after 23 more hours"), "{text}");
    }

    #[test]
    fn what_is_held_back_is_told_with_what_to_do() {
        let word = SweepWord { held_back: 40, ..SweepWord::default() };
        let text = as_text(&[], &word, DAY, true);
        assert!(text.contains("40 archives are held back") && text.contains("gc --allow"), "{text}");
    }
}
