//! `docs/defects.md` is true: every severe defect of the reference is in it, and the tests it names exist and are run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The defects of severity S1 and S2 in section 8 of the runtime specification.
const SEVERE: [u32; 27] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 28, 36, 37, 55];

/// A line of the table: a defect and its tests, each as path of a source file and name of a function.
type Entries = BTreeMap<u32, Vec<(String, String)>>;

/// Reads the table: `| W-3 | what cannot happen | tests in back quotes |`.
fn entries(table: &str) -> Result<Entries, String> {
    let mut entries = Entries::new();
    for line in table.lines().filter(|line| line.starts_with("| W-")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [number, what, tests] = cells[..] else { return Err(format!("not three cells: {line}")) };
        let number = number.trim_start_matches("W-").parse().map_err(|_| format!("no number: {line}"))?;
        if what.is_empty() {
            return Err(format!("W-{number}: what cannot happen is not said"));
        }
        let mut named = Vec::new();
        for test in tests.split('`').skip(1).step_by(2) {
            let (path, name) = test.split_once("::").ok_or_else(|| format!("W-{number}: {test} is not path::name"))?;
            named.push((path.to_owned(), name.to_owned()));
        }
        if entries.insert(number, named).is_some() {
            return Err(format!("W-{number} is there twice"));
        }
    }
    Ok(entries)
}

/// What is wrong with a test that is named for a defect; `cases` is the list of the conformance suite's cases.
fn problem(number: u32, name: &str, source: &str, cases: &str) -> Option<String> {
    if !name.contains(&format!("w_{number:02}_")) {
        return Some(format!("{name} is not named after W-{number}"));
    }
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| !line.starts_with("//") && line.contains(&format!("fn {name}(")))
    else {
        return Some(format!("{name} does not exist"));
    };
    // A case of the suite is run by being listed.
    if lines[at].starts_with("pub async fn ") {
        return (!cases.contains(&format!("{name},"))).then(|| format!("{name} is no listed case"));
    }
    let attributes: Vec<&str> =
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//")).copied().collect();
    if attributes.iter().any(|line| line.starts_with("#[ignore")) {
        return Some(format!("{name} is not run"));
    }
    let is_test = attributes.iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    (!is_test).then(|| format!("{name} is no test"))
}

/// Everything that does not hold of a table, with the sources below `root`.
fn problems(root: &Path, table: &str) -> Vec<String> {
    let entries = match entries(table) {
        Ok(entries) => entries,
        Err(problem) => return vec![problem],
    };
    let cases = std::fs::read_to_string(root.join("crates/testkit/src/conformance/mod.rs")).unwrap_or_default();
    let mut problems = Vec::new();
    for number in SEVERE {
        match entries.get(&number) {
            None => problems.push(format!("W-{number} is missing")),
            Some(tests) if tests.is_empty() => {
                problems.push(format!("W-{number} names no test"));
            }
            Some(_) => {}
        }
    }
    for (number, tests) in &entries {
        for (path, name) in tests {
            match std::fs::read_to_string(root.join(path)) {
                Ok(source) => problems.extend(problem(*number, name, &source, &cases)),
                Err(_) => problems.push(format!("{path} cannot be read")),
            }
        }
    }
    problems
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_severe_defect_has_its_tests() {
    let table = std::fs::read_to_string(root().join("docs/defects.md")).unwrap();
    assert_eq!(problems(&root(), &table), Vec::<String>::new());
}

#[test]
fn a_table_that_is_not_true_is_noticed() {
    let good = "crates/api/tests/it/tools.rs::w_03_an_empty_intersection_of_allow_lists_denies";
    let told = |tests: &str| problems(&root(), &format!("| W-3 | nothing | {tests} |\n"));
    let missing = SEVERE.len() - 1;
    assert_eq!(told(&format!("`{good}`")).len(), missing, "every other one is missing");
    for (tests, problem) in [
        (String::new(), "W-3 names no test"),
        (good.to_owned(), "W-3 names no test"),
        (format!("`{good}s`"), "does not exist"),
        (format!("`{}`", good.replace("tools.rs", "tool.rs")), "cannot be read"),
        ("`crates/api/tests/it/tools.rs::w_16_many_rules_hide_no_deny`".to_owned(), "not named after W-3"),
        ("`crates/api/tests/it/tools.rs`".to_owned(), "is not path::name"),
    ] {
        assert!(told(&tests).iter().any(|told| told.contains(problem)), "{tests}: {problem}: {:?}", told(&tests));
    }
    assert_eq!(problems(&root(), "| W-3 | | x |").len(), 1);
    assert_eq!(problems(&root(), "| W-3 | a | b |\n| W-3 | a | b |"), ["W-3 is there twice"]);
    for (source, told) in [
        ("#[test]\nfn w_03_x() {", None),
        ("#[tokio::test(flavor = \"multi_thread\")]\n/// Words.\nasync fn w_03_x() {", None),
        ("fn w_03_x() {", Some("is no test")),
        ("#[test]\n#[ignore = \"later\"]\nfn w_03_x() {", Some("is not run")),
        ("// fn w_03_x() {", Some("does not exist")),
        ("pub async fn w_03_x(subject: &Subject) {", Some("is no listed case")),
    ] {
        let found = problem(3, "w_03_x", source, "w_03_y,");
        assert_eq!(found.is_some(), told.is_some(), "{source}");
        assert!(found.unwrap_or_default().contains(told.unwrap_or_default()), "{source}");
    }
    assert_eq!(problem(3, "w_03_x", "pub async fn w_03_x(subject: &Subject) {", "w_03_x,"), None);
}

/// Tests that are named after a defect are in the table.
#[test]
fn no_test_of_a_defect_is_left_out() {
    let table = std::fs::read_to_string(root().join("docs/defects.md")).unwrap();
    let named: BTreeSet<String> = entries(&table).unwrap().into_values().flatten().map(|(_, name)| name).collect();
    let mut left_out = Vec::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("cli/tests/it/defects.rs")
            {
                let source = std::fs::read_to_string(&path).unwrap();
                left_out.extend(tests_of_defects(&source).into_iter().filter(|name| !named.contains(name)));
            }
        }
    }
    assert_eq!(left_out, Vec::<String>::new());
}

/// Names of functions that say a defect's number.
fn tests_of_defects(source: &str) -> Vec<String> {
    let functions = source.lines().filter_map(|line| line.split_once("fn ")?.1.split_once('(')).map(|(name, _)| name);
    functions.filter(|name| has_number(name)).map(str::to_owned).collect()
}

fn has_number(name: &str) -> bool {
    let digits =
        |text: &str| text.len() >= 3 && text[..2].bytes().all(|b| b.is_ascii_digit()) && text[2..].starts_with('_');
    name.match_indices("w_").any(|(at, _)| (at == 0 || name[..at].ends_with('_')) && digits(&name[at + 2..]))
}

#[test]
fn functions_of_defects_are_told_from_others() {
    let source = "async fn auth_w_05_x() {\n    fn w_3_x() {}\nfn show_10_y() {}\npub async fn w_13_z(a: u8) {";
    assert_eq!(tests_of_defects(source), ["auth_w_05_x", "w_13_z"]);
}
