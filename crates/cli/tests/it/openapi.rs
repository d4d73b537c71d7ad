//! `aionis openapi`.

use std::process::Command;

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_aionis")).args(arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_document_and_the_table_are_printed_as_they_are_committed() {
    let committed =
        |name: &str| std::fs::read_to_string(format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let stale = "run `make openapi` and commit what it changes";
    assert!(printed(&["openapi"]) == committed("openapi.json"), "docs/openapi.json: {stale}");
    let table = printed(&["openapi", "--error-table"]);
    assert!(table.starts_with("| status |") && committed("http.md").contains(&table), "docs/http.md: {stale}");
}

#[test]
fn an_unknown_flag_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_aionis")).args(["openapi", "--xml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
