//! The fuzz targets' checks over their seeds and deterministic mutations of them, without any fuzzing tool.

use std::{fs, path::Path};

use aionis_testkit::fixtures::Rng;

#[path = "../../../../fuzz/checks.rs"]
mod checks;

/// Most mutations are no JSON any more and cost next to nothing; about one in ten goes all the way.
const MUTATIONS: usize = 200_000;

/// What makes parsers and preparation take another turn.
const TOKENS: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\",
    "\"",
    "1e39",
    "1e400",
    "-0",
    "1e21",
    "9007199254740993",
    "18446744073709551615",
    "5e-324",
    "\u{feff}",
    "\u{2028}",
    "\u{85}",
    "🦀",
    "bob@x.com",
    "10.0.0.1",
    "123-45-6789",
    "+1 (415) 555-1234",
    "tenant:x::scope:y",
    "../",
    "\"type\":\"rule\"",
    "\"type\":\"event\"",
    "\"client_id\":\"a\"",
    "\"memory_lane\":\"shared\"",
    "\"rule_scope\":\"agent\"",
    "\"slots\":{}",
    "\"embedding\":[1]",
    "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e",
    "[[[[[[[[",
    "}}}}",
    ",",
    ":",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds in {}", dir.display());
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.below(bytes.len() + 1);
    match rng.below(6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
        1 if at < bytes.len() => bytes[at] = rng.bits().to_le_bytes()[0],
        2 => {
            let end = (at + 1 + rng.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        3 => {
            let other = &seeds[rng.below(seeds.len())];
            let from = rng.below(other.len());
            let to = (from + 1 + rng.below(64)).min(other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        4 => {
            let end = (at + rng.below(32)).min(bytes.len());
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        _ => {
            let token = TOKENS[rng.below(TOKENS.len())];
            bytes.splice(at..at, token.bytes());
        }
    }
}

fn smoke(target: &str, check: fn(&[u8])) {
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| check(seed));
    let mut rng = Rng::new(0x0A10_2026);
    for _ in 0..MUTATIONS {
        let mut bytes = seeds[rng.below(seeds.len())].clone();
        for _ in 0..=rng.below(4) {
            mutate(&mut bytes, &seeds, &mut rng);
        }
        check(&bytes);
    }
}

#[test]
fn fuzz_smoke_write_body() {
    smoke("write_body", checks::write_body);
}

#[test]
fn fuzz_smoke_canonical_json() {
    smoke("canonical_json", checks::canonical_json);
}
