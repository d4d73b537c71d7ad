//! The contract of the interface as a table: made from the document, answered by the service, compared with what the
//! document says, and kept as a snapshot.

mod agreement;
mod callers;
mod cases;
mod codes;
mod document;
mod fresh;
mod guards;
mod protocol;
mod queries;
mod rates;
mod readings;
mod world;

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use self::{
    cases::cases,
    document::Document,
    world::{World, posted, schema_of, setup},
};
use crate::harness::{Answer, Service};

/// Codes that say that a body is not as its schema wants it.
const REFUSALS: [&str; 3] = ["invalid_request", "invalid_tenant_id", "invalid_scope"];

/// What a schema cannot say: bodies it accepts that are refused all the same, and why.
const BEYOND_SCHEMA: &[(&str, &str, &str)] = &[
    ("/v1/memory/recall", "query_embedding of 1 items", "the dimension is the store's"),
    ("/v1/memory/write", "nodes.0.embedding of 1 items", "the dimension is the store's"),
];

/// One line of the table.
struct Row {
    endpoint: String,
    case: String,
    status: u16,
    code: String,
}

/// The table, with what is not as the document says.
#[derive(Default)]
struct Table {
    rows: Vec<Row>,
    faults: Vec<String>,
}

impl Table {
    fn add(&mut self, document: &mut Document, (path, method): (&str, &str), case: &str, answer: &Answer) {
        let status = answer.status.as_u16();
        let code = if answer.status.is_success() { String::new() } else { answer.refusal().1 };
        for fault in document.faults(path, method, answer) {
            self.fault(path, case, "an answer as documented", &format!("{fault}: {}", answer.text()));
        }
        if answer.header("x-request-id").is_none() {
            self.fault(path, case, "x-request-id", "none");
        }
        self.rows.push(Row { endpoint: path.to_owned(), case: case.to_owned(), status, code });
    }

    fn fault(&mut self, path: &str, case: &str, expected: &str, got: &str) {
        let got = aionis_core::ids::clip(got, 600);
        self.faults.push(format!("{path} | {case} | expected {expected} | got {got}"));
    }

    fn assert_sound(&self) {
        assert!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults.join("\n"));
    }

    /// `endpoint | case | status | code`; wrong types of one member that are answered alike share a line.
    fn text(&self) -> String {
        let mut lines: Vec<(String, String)> = Vec::new();
        let mut at: BTreeMap<(String, String, String), usize> = BTreeMap::new();
        for Row { endpoint, case, status, code } in &self.rows {
            let end = format!("{status} | {code}").trim_end_matches([' ', '|']).to_owned();
            match case.split_once(" is ").filter(|(_, kind)| !kind.contains(',')) {
                Some((member, kind)) => {
                    let key = (endpoint.clone(), member.to_owned(), end.clone());
                    if let Some(line) = at.get(&key) {
                        let _ = write!(lines[*line].0, ", {kind}");
                    } else {
                        at.insert(key, lines.len());
                        lines.push((format!("{endpoint} | {case}"), end));
                    }
                }
                None => lines.push((format!("{endpoint} | {case}"), end)),
            }
        }
        lines.iter().map(|(start, end)| format!("{start} | {end}\n")).collect()
    }
}

fn told(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

/// Every body of the table, of the cases that `wanted` picks.
async fn bodies(world: &World, document: &mut Document, wanted: impl Fn(&str, &str) -> bool) -> Table {
    let mut table = Table::default();
    for path in posted(document) {
        let schema = schema_of(document, &path);
        for case in cases(document, &schema, &|member| world.known(member)) {
            if !wanted(&path, &case.name) {
                continue;
            }
            let answer = world.post(&path, &[], &case.body).await;
            table.add(document, (&path, "post"), &case.name, &answer);
            judge(&mut table, document, (&path, &case.name), &case.body, &answer);
        }
    }
    table
}

/// The schema and the reader have to agree.
fn judge(table: &mut Table, document: &mut Document, (path, case): (&str, &str), body: &Value, answer: &Answer) {
    let (status, code) = told(answer);
    let refused = status == 400 && REFUSALS.contains(&code.as_str());
    let beyond = BEYOND_SCHEMA.iter().any(|(of, name, _)| *of == path && *name == case);
    match document.refuses(path, body) {
        Some(why) if !refused => table.fault(path, case, &format!("a refusal, for {why}"), answer.text()),
        None if refused != beyond => {
            let expected = if beyond { "a refusal beyond the schema" } else { "the schema's consent" };
            table.fault(path, case, expected, answer.text());
        }
        _ => {}
    }
}

#[tokio::test]
async fn contract_of_bodies() {
    let mut document = Document::new();
    let world = World::new(Service::with(setup)).await;
    let example = "/components/schemas/FeedbackRequest/properties/rule_node_id/examples/0";
    assert_eq!(document.json.pointer(example).unwrap(), &world.rule, "the examples name what `World` stores");
    let table = bodies(&world, &mut document, |_, _| true).await;
    table.assert_sound();
    assert!(table.rows.len() > 800, "{} cases", table.rows.len());
    insta::assert_snapshot!("contract_bodies", table.text());
    world.service.assert_sound().await;
}

/// What the reader lets through is answered alike by the other engine.
#[tokio::test(flavor = "multi_thread")]
async fn contract_of_bodies_on_both_engines() {
    let mut document = Document::new();
    let embedded = World::new(Service::with(setup)).await;
    let reaches_the_store = bodies(&embedded, &mut document, |_, _| true).await;
    let reached: Vec<(String, String)> = reaches_the_store
        .rows
        .into_iter()
        .filter(|row| !REFUSALS.contains(&row.code.as_str()))
        .map(|row| (row.endpoint, row.case))
        .collect();
    let wanted = |path: &str, case: &str| reached.contains(&(path.to_owned(), case.to_owned()));
    let embedded = World::new(Service::with(setup)).await;
    let postgres = World::new(Service::on_postgres_with(setup).await).await;
    let one = bodies(&embedded, &mut document, wanted).await;
    let other = bodies(&postgres, &mut document, wanted).await;
    other.assert_sound();
    assert_eq!(one.text(), other.text());
    assert!(other.rows.len() > 100, "{} cases", other.rows.len());
    postgres.service.assert_sound().await;
}
