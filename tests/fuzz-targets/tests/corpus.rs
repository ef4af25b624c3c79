//! Every fuzz target on its corpus, and on mutations of that: without libFuzzer, which takes minutes to build.

use leapbox_fuzz_targets::{client_hello, dns, http_head};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// Mutated inputs for each target.
const CASES: u32 = 20_000;
/// At most so many changes to an input.
const MOST_CHANGES: usize = 6;

/// One change to an input, at a place that is a share of its length in 65,536ths.
#[derive(Debug, Clone)]
enum Change {
    Set {
        at: u16,
        byte: u8,
    },
    Insert {
        at: u16,
        bytes: Vec<u8>,
    },
    Remove {
        at: u16,
        count: usize,
    },
    /// Copies a piece to another place.
    Repeat {
        from: u16,
        at: u16,
        count: usize,
    },
}

impl Change {
    fn apply(&self, input: &mut Vec<u8>) {
        let place = |at: u16| input.len() * usize::from(at) / 65_536;
        match self {
            Self::Set { at, byte } => {
                let at = place(*at);
                if let Some(old) = input.get_mut(at) {
                    *old = *byte;
                }
            }
            Self::Insert { at, bytes } => {
                let at = place(*at);
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Remove { at, count } => {
                let at = place(*at);
                input.drain(at..input.len().min(at + count));
            }
            Self::Repeat { from, at, count } => {
                let (from, at) = (place(*from), place(*at));
                let piece = input[from..input.len().min(from + count)].to_vec();
                input.splice(at..at, piece);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    // What these formats are made of: ends of lines and of names, separators, lengths at their edges.
    let telling = prop::sample::select(b"\0\x01\x03\x16\x40\x7f\x80\xc0\xff\r\n \t:;,./*0aZ".to_vec());
    let byte = prop_oneof![telling, any::<u8>()];
    prop_oneof![
        (any::<u16>(), byte.clone()).prop_map(|(at, byte)| Change::Set { at, byte }),
        (any::<u16>(), prop::collection::vec(byte, 1..9)).prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        (any::<u16>(), 1..40_usize).prop_map(|(at, count)| Change::Remove { at, count }),
        (any::<u16>(), any::<u16>(), 1..80_usize).prop_map(|(from, at, count)| Change::Repeat { from, at, count }),
    ]
}

/// The seeds of a target, and what libFuzzer has found worth keeping.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let folder = fuzz.join("seeds").join(target);
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let mut inputs: Vec<_> = files.iter().map(|file| std::fs::read(file).expect("a seed")).collect();
    let kept = std::fs::read_to_string(fuzz.join("corpus").join(format!("{target}.hex"))).expect("the corpus");
    inputs.extend(kept.lines().filter(|line| !line.starts_with('#')).map(unhex));
    assert!(inputs.len() > 100, "{target} has only {} inputs", inputs.len());
    inputs
}

fn unhex(line: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("two hexadecimal digits");
    (0..line.len()).step_by(2).map(byte).collect()
}

fn on_corpus_and_mutations(name: &str, target: fn(&[u8])) {
    let inputs = corpus(name);
    inputs.iter().for_each(|input| target(input));
    // `PROPTEST_CASES` asks for more of them.
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) };
    let mutated = (prop::sample::select(inputs), prop::collection::vec(change(), 1..=MOST_CHANGES));
    proptest!(config, |((mut input, changes) in mutated)| {
        for change in &changes {
            change.apply(&mut input);
        }
        target(&input);
    });
}

#[test]
fn the_reader_of_tls_hellos_holds_on_its_corpus() {
    on_corpus_and_mutations("client_hello", client_hello);
}

#[test]
fn the_reader_of_request_heads_holds_on_its_corpus() {
    on_corpus_and_mutations("http_head", http_head);
}

#[test]
fn the_way_of_a_dns_query_holds_on_its_corpus() {
    on_corpus_and_mutations("dns", dns);
}
