//! What is committed is what the program says, and every registered route is described.

use std::collections::BTreeSet;

use super::document::Document;
use crate::auth::registered;

const BEGIN: &str = "<!-- error codes: begin; made by `make openapi` -->\n";
const END: &str = "<!-- error codes: end -->";

fn committed(name: &str) -> String {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_committed_document_is_fresh() {
    let fresh = committed("openapi.json") == aionis_api::document_text();
    assert!(fresh, "docs/openapi.json is not what the program says: run `make openapi` and commit it");
}

/// The part of a text between the marks.
fn between(text: &str) -> Option<&str> {
    text.split_once(BEGIN)?.1.split_once(END).map(|(part, _)| part)
}

#[test]
fn the_documented_error_codes_are_fresh() {
    let page = committed("http.md");
    let fresh = between(&page) == Some(aionis_api::error_table().as_str());
    assert!(fresh, "the error codes in docs/http.md are not those of the program: run `make openapi` and commit it");
    assert_eq!(between(&format!("x{BEGIN}table{END}y")), Some("table"));
    assert_eq!(between(BEGIN), None);
}

#[tokio::test]
async fn every_registered_route_is_in_the_document() {
    let documented: BTreeSet<String> = Document::new().operations().into_iter().map(|(path, _, _)| path).collect();
    let registered = registered();
    let apart: Vec<_> = registered.symmetric_difference(&documented).collect();
    assert!(apart.is_empty(), "registered or documented only, see openapi/operations.rs: {apart:?}");
    // What a route that is not described would look like.
    let fewer: BTreeSet<String> = documented.iter().filter(|path| *path != "/v1/memory/write").cloned().collect();
    assert_eq!(registered.symmetric_difference(&fewer).count(), 1);
}
