//! Variables, routes, make targets and the image are called in documents and delivery files as they are called.

use std::{collections::BTreeSet, path::Path};

use aionis_api::ROUTES;
use regex::Regex;

use super::{Document, delivery_files, documents, finding, none, root};
use crate::settings::{catalog::variables, retired::retired};

/// Everything that may be named.
struct Known {
    variables: BTreeSet<String>,
    targets: BTreeSet<String>,
}

impl Known {
    fn of_the_repository() -> Self {
        let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
        let mut known = Self { variables: BTreeSet::new(), targets: targets(&makefile) };
        known.variables.extend(variables(&crate::command()).into_iter().map(|variable| variable.name));
        known.variables.extend(retired().iter().map(|retired| retired.name.to_owned()));
        // Scripts, compose files and the tests have variables of their own, which they read by these forms.
        let read = Regex::new(r"\$\{([A-Z][A-Z0-9_]*)[:?\-}]|^([A-Z][A-Z0-9_]*) \?=|env\.([A-Z][A-Z0-9_]*)").unwrap();
        for (_, text) in delivery_files() {
            known.variables.extend(captured(&read, &text));
        }
        let tests = Regex::new(r#""(AIONIS_TEST_[A-Z0-9_]+)""#).unwrap();
        for path in super::files(&root().join("crates"), &[".rs"]) {
            known.variables.extend(captured(&tests, &std::fs::read_to_string(path).unwrap()));
        }
        known
    }
}

fn captured(pattern: &Regex, text: &str) -> Vec<String> {
    let lines = text.lines().flat_map(|line| pattern.captures_iter(line));
    lines.filter_map(|found| found.iter().skip(1).flatten().next().map(|name| name.as_str().to_owned())).collect()
}

fn targets(makefile: &str) -> BTreeSet<String> {
    let target = Regex::new(r"^([a-z][a-z0-9-]*):").unwrap();
    captured(&target, makefile).into_iter().collect()
}

/// Names in capitals that begin as a variable of ours does, and are none. `NAME_*` and `…_NAME` stand for several.
fn check_variables(document: &Document, known: &Known) -> Vec<String> {
    let name = Regex::new(r"(?:^|[^A-Za-z0-9_…*-])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(_?\*)?").unwrap();
    let first = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
    let firsts: BTreeSet<String> = known.variables.iter().map(|name| first(name)).collect();
    let mut findings = Vec::new();
    for code in &document.code {
        if code.language.as_deref().is_some_and(|language| matches!(language, "sql" | "rust" | "python" | "json")) {
            continue;
        }
        for found in name.captures_iter(&code.text) {
            let (written, is_several) = (&found[1], found.get(2).is_some());
            let exists = if is_several {
                known.variables.iter().any(|known| known.starts_with(written))
            } else {
                known.variables.contains(written)
            };
            if firsts.contains(&first(written)) && !exists {
                findings.push(finding(&document.path, code.line, format!("there is no variable {written}")));
            }
        }
    }
    findings
}

/// `METHOD /path` that the service does not have.
fn check_routes(document: &Document) -> Vec<String> {
    let route =
        Regex::new(r"\b(GET|POST|PUT|PATCH|DELETE) (/(?:v1|health|metrics|docs|openapi)[A-Za-z0-9_/{}.\-:]*)").unwrap();
    let mut findings = Vec::new();
    for code in &document.code {
        for found in route.captures_iter(&code.text) {
            let (method, path) = (&found[1], found[2].trim_end_matches(['.', ':', '/']));
            let is_known = ROUTES.iter().any(|known| known.method == method && fits(known.path, path));
            if !is_known {
                findings.push(finding(&document.path, code.line, format!("there is no route {method} {path}")));
            }
        }
    }
    findings
}

fn fits(route: &str, path: &str) -> bool {
    let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
    route.len() == path.len() && route.iter().zip(&path).all(|(known, given)| known == given || known.starts_with('{'))
}

fn check_targets(path: &Path, text: &str, line: usize, known: &Known) -> Vec<String> {
    let target = Regex::new(r"(?:^|[\s`(;&|])make(?:\s+--?[a-z-]+)*\s+([a-z][a-z0-9-]*)").unwrap();
    let named = captured(&target, text).into_iter().filter(|name| !known.targets.contains(name));
    named.map(|name| finding(path, line, format!("there is no make target {name}"))).collect()
}

/// Images are called `ghcr.io/<owner>/aionis`, whatever stands for the owner.
fn check_images(path: &Path, text: &str) -> Vec<String> {
    let registry =
        Regex::new(r"\b(?:ghcr|docker|quay)\.io/((?:\$\{\{[^}]*\}\}|\$\{[^}]*\}|[^\s/`'\x22])+)/([A-Za-z0-9._-]+)")
            .unwrap();
    let local = Regex::new(r"(?:^|[\s=`'\x22])((?:[a-z0-9.-]+/)*aionis[a-z-]*):(?:latest|local|v?[0-9])").unwrap();
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for found in registry.captures_iter(line) {
            if !found[0].starts_with("ghcr.io/") || &found[2] != "aionis" {
                findings.push(finding(path, at + 1, format!("the image is ghcr.io/<owner>/aionis, not {}", &found[0])));
            }
        }
        for found in local.captures_iter(line) {
            if !found[1].starts_with("ghcr.io/") {
                findings.push(finding(path, at + 1, format!("the image is ghcr.io/<owner>/aionis, not {}", &found[1])));
            }
        }
    }
    findings
}

#[test]
fn every_variable_and_route_exists() {
    let known = Known::of_the_repository();
    let documents = documents();
    let mut findings: Vec<String> = documents.iter().flat_map(|document| check_variables(document, &known)).collect();
    findings.extend(documents.iter().flat_map(check_routes));
    none(&findings);
}

#[test]
fn every_make_target_exists() {
    let known = Known::of_the_repository();
    assert!(known.targets.len() > 15, "{:?}", known.targets);
    let mut findings = Vec::new();
    for document in documents() {
        let code = document.code.iter().filter(|code| code.language.is_none() || code.is_shell());
        findings.extend(code.flat_map(|code| check_targets(&document.path, &code.text, code.line, &known)));
    }
    for (path, text) in delivery_files() {
        if path.extension().is_some_and(|ending| ending == "yml") || path.starts_with(".ci") {
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
            findings.extend(lines.flat_map(|(at, line)| check_targets(&path, line, at + 1, &known)));
        }
    }
    none(&findings);
}

#[test]
fn p1_2_the_image_has_one_name() {
    let mut findings = Vec::new();
    let mut seen = 0;
    for (path, text) in delivery_files() {
        findings.extend(check_images(&path, &text));
        seen += text.matches("ghcr.io/").count();
    }
    for document in documents() {
        let text = std::fs::read_to_string(root().join(&document.path)).unwrap();
        findings.extend(check_images(&document.path, &text));
    }
    none(&findings);
    assert!(seen > 3, "the image is named {seen} times");
}

fn planted(text: &str) -> Document {
    Document::parse(Path::new("d.md"), text)
}

#[test]
fn a_variable_that_is_not_there_is_found() {
    let known = Known::of_the_repository();
    for sound in
        ["`AIONIS_DATA_DIR`", "`AIONIS_RETENTION_*_DAYS`", "`…_MAX_WAIT_MS`", "AIONIS_NOT_CODE", "`FOR_UPDATE`"]
    {
        assert_eq!(check_variables(&planted(sound), &known), Vec::<String>::new(), "{sound}");
    }
    for wrong in ["`AIONIS_DATA_DRI`", "```sh\nOUTBOX_BATCH=1 aionis worker\n```", "`AIONIS_RETENTIONS_*`"] {
        assert_eq!(check_variables(&planted(wrong), &known).len(), 1, "{wrong}");
    }
}

#[test]
fn a_route_that_is_not_there_is_found() {
    for sound in ["`POST /v1/memory/write`", "`GET /v1/memory/nodes/0b0f/history?limit=1`", "`GET /metrics`"] {
        assert_eq!(check_routes(&planted(sound)), Vec::<String>::new(), "{sound}");
    }
    for wrong in ["`POST /v1/memory/remember`", "`GET /v1/memory/write`", "```text\nDELETE /v1/memory/nodes/x\n```"] {
        assert_eq!(check_routes(&planted(wrong)).len(), 1, "{wrong}");
    }
}

#[test]
fn a_make_target_that_is_not_there_is_found() {
    let known = Known { variables: BTreeSet::new(), targets: targets("test: nextest\n\tx\nstack-up:\n") };
    let check = |text| check_targets(Path::new("d.md"), text, 1, &known);
    assert_eq!(check("make test && make stack-up PORT=1"), Vec::<String>::new());
    assert_eq!(check("`make tset`"), ["d.md:1: there is no make target tset"]);
    assert_eq!(check("make --no-print-directory stack"), ["d.md:1: there is no make target stack"]);
}

#[test]
fn another_name_of_the_image_is_found() {
    let check = |text| check_images(Path::new("f"), text);
    for sound in [
        "image: ghcr.io/${{ github.repository_owner }}/aionis:latest",
        "image: ghcr.io/${OWNER:-local}/aionis:${TAG:-local}",
        "docker pull ghcr.io/<owner>/aionis:v1.0.0",
        "sha256(aionis-memory-graph:commit)",
    ] {
        assert_eq!(check(sound), Vec::<String>::new(), "{sound}");
    }
    for wrong in [
        "image: ghcr.io/${{ github.repository_owner }}/aionis-memory-graph",
        "docker pull docker.io/owner/aionis",
        "docker build -t aionis-standalone:local .",
        "docker run aionis:latest",
    ] {
        assert_eq!(check(wrong).len(), 1, "{wrong}");
    }
}
