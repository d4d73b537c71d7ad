//! Error codes: those of the sources and those of the table are the same.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use aionis_core::error_codes::{CODES, Surface, find};

use super::document::Document;

fn sources() -> Vec<(PathBuf, String)> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut open: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(crates).unwrap() {
        let path = entry.unwrap().path();
        // What is for tests only gives codes to nobody.
        if !path.ends_with("testkit") {
            open.push(path.join("src"));
        }
    }
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|of| of == "rs") && !path.ends_with("core/src/error_codes.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned()));
        }
    }
    found
}

/// Codes a source gives: after a kind of error, or to a helper that takes the code.
fn given(source: &str) -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    for (start, named) in [("ErrorKind::", true), ("refuse(", false), ("invalid(", false)] {
        for rest in source.split(start).skip(1) {
            // `EmbedErrorKind` is another type.
            let (kind, rest) = if named {
                let Some((kind, rest)) = rest.split_once(',') else { continue };
                (Some(kind.trim()), rest)
            } else {
                (None, rest)
            };
            let Some(code) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
                continue;
            };
            let plain = kind.is_none_or(|kind| kind.bytes().all(|b| b.is_ascii_alphanumeric()));
            if plain && !code.is_empty() && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                found.push((kind.map(str::to_owned), code.to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_code_of_the_sources_is_in_the_table() {
    let mut seen = BTreeSet::new();
    for (path, source) in sources() {
        for (kind, code) in given(&source) {
            let entry = find(&code).unwrap_or_else(|| panic!("{code} ({}) is not in error_codes.rs", path.display()));
            if let Some(kind) = kind {
                assert_eq!(kind, format!("{:?}", entry.kind), "{code} ({})", path.display());
            }
            seen.insert(code);
        }
    }
    assert!(seen.len() > 30, "the sources are not found: {seen:?}");
}

#[test]
fn every_code_of_the_table_is_in_the_sources() {
    let sources = sources();
    let of_openapi = |path: &Path| path.to_string_lossy().contains("/src/openapi/");
    for entry in CODES {
        let literal = format!("\"{}\"", entry.code);
        let used = sources.iter().any(|(path, source)| !of_openapi(path) && source.contains(&literal));
        assert!(used, "{} is given nowhere", entry.code);
    }
}

#[test]
fn a_code_that_is_given_is_found() {
    let source = "DomainError::new(ErrorKind::Invalid, \"one_code\", x) ErrorKind::Conflict,\n    \"other\",\n \
                  refuse(\"third\", y) ErrorKind::Invalid => 1, \"no_code\"";
    let found = given(source);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0], (Some("Invalid".to_owned()), "one_code".to_owned()));
    assert_eq!(found[2], (None, "third".to_owned()));
}

/// Every code of the interface is an answer of some operation, and the document explains it.
#[test]
fn every_code_of_the_interface_is_documented_somewhere() {
    let document = Document::new().json;
    let explained: BTreeSet<&str> =
        document["x-error-codes"].as_array().unwrap().iter().map(|entry| entry["code"].as_str().unwrap()).collect();
    let (paths, responses) = (document["paths"].to_string(), document["components"]["responses"].to_string());
    for entry in CODES {
        let http = entry.surface == Surface::Http;
        assert_eq!(explained.contains(entry.code), http, "{}", entry.code);
        let literal = format!("\"{}\"", entry.code);
        let answered = paths.contains(&literal) || responses.contains(&literal) || entry.code == "invalid_request";
        assert_eq!(answered, http, "{} belongs into openapi/operations.rs", entry.code);
    }
}

/// An operation can only name codes of the table: another one would be left out of its answers.
#[test]
fn operations_name_codes_of_the_table() {
    let operations = include_str!("../../../src/openapi/operations.rs");
    let codes = operations.split("const ANY").nth(1).unwrap().split("pub(super) const OPERATIONS").next().unwrap();
    let literals: Vec<&str> = codes.split('"').skip(1).step_by(2).collect();
    assert!(literals.len() > 25);
    for code in literals {
        assert!(find(code).is_some_and(|entry| entry.surface == Surface::Http), "{code}");
    }
}
