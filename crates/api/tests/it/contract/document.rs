//! The document as a judge: of bodies of requests and of answers.

use std::collections::BTreeSet;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use serde_json::{Map, Value, json};

use crate::harness::Answer;

const REQUESTS: &str = "http://document.invalid/requests.json";
const ANSWERS: &str = "http://document.invalid/answers.json";

/// The document with its schemas compiled on demand.
pub(crate) struct Document {
    pub(crate) json: Value,
    compiler: Compiler,
    schemas: Schemas,
}

impl Document {
    pub(crate) fn new() -> Self {
        let json = aionis_api::document();
        let mut strict = json.clone();
        close(&mut strict);
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource(REQUESTS, json.clone()).unwrap();
        compiler.add_resource(ANSWERS, strict).unwrap();
        Self { json, compiler, schemas: Schemas::new() }
    }

    /// Path, method and description of every operation.
    pub(crate) fn operations(&self) -> Vec<(String, String, Value)> {
        let mut all = Vec::new();
        for (path, methods) in self.json["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                all.push((path.clone(), method.clone(), operation.clone()));
            }
        }
        all
    }

    /// What a reference points at, or the value itself.
    pub(crate) fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.json.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} is nowhere")),
            None => value,
        }
    }

    fn compiled(&mut self, resource: &str, pointer: &str) -> SchemaIndex {
        let place = format!("{resource}#{pointer}");
        self.compiler.compile(&place, &mut self.schemas).unwrap_or_else(|e| panic!("{place}: {e}"))
    }

    /// Why the schema of an operation's body refuses a body, or none.
    pub(crate) fn refuses(&mut self, path: &str, body: &Value) -> Option<String> {
        self.refuses_at(&format!("/paths/{}/post/requestBody/content/application~1json/schema", escaped(path)), body)
    }

    /// Why the schema at a place refuses a value, or none.
    pub(crate) fn refuses_at(&mut self, pointer: &str, value: &Value) -> Option<String> {
        let schema = self.json.pointer(pointer).unwrap().clone();
        let index = self.compiled(REQUESTS, pointer);
        match self.schemas.validate(value, index) {
            Err(e) => Some(e.to_string()),
            Ok(()) => self.exceeds(&schema, value).or_else(|| nul_in(value)),
        }
    }

    /// Our own bounds: bytes and depth.
    fn exceeds(&self, schema: &Value, value: &Value) -> Option<String> {
        let schema = self.resolve(schema);
        if let (Some(max), Some(text)) = (schema["x-max-bytes"].as_u64(), value.as_str()) {
            let text = if schema["x-trimmed"] == true { text.trim() } else { text };
            if text.len() as u64 > max {
                return Some(format!("longer than {max} bytes"));
            }
        }
        if let Some(max) = schema["x-max-depth"].as_u64()
            && depth(value) > max
        {
            return Some(format!("deeper than {max}"));
        }
        let members = schema["properties"].as_object().into_iter().flatten();
        let inner = members.filter_map(|(name, member)| self.exceeds(member, value.get(name)?));
        let items = value.as_array().into_iter().flatten();
        let mut items = items.filter_map(|item| self.exceeds(schema.get("items")?, item));
        let alternatives = schema["anyOf"].as_array().into_iter().flatten();
        let alternatives: Vec<Option<String>> = alternatives.map(|other| self.exceeds(other, value)).collect();
        let all_exceed = !alternatives.is_empty() && alternatives.iter().all(Option::is_some);
        inner.chain(&mut items).next().or_else(|| alternatives.into_iter().next().flatten().filter(|_| all_exceed))
    }

    /// What about an answer is not as the document says.
    pub(crate) fn faults(&mut self, path: &str, method: &str, answer: &Answer) -> Vec<String> {
        let status = answer.status.as_u16();
        let at = format!("/paths/{}/{method}/responses/{status}", escaped(path));
        let Some(response) = self.json.pointer(&at) else { return vec![format!("status {status} is not documented")] };
        let at = response["$ref"].as_str().map_or(at, |reference| reference[1..].to_owned());
        let response = self.json.pointer(&at).unwrap().clone();
        let mut faults = Vec::new();
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let always = name != "retry-after" || answer.json()["error"] != "storage_read_only";
            if always && answer.header(name).is_none() {
                faults.push(format!("{status} has no header {name}: {header}"));
            }
        }
        let media_type =
            answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
        if response["content"][&media_type].is_null() {
            faults.push(format!("{status} is of media type {media_type:?}"));
        } else if media_type == "application/json" {
            let index = self.compiled(ANSWERS, &format!("{at}/content/application~1json/schema"));
            if let Err(e) = self.schemas.validate(&answer.json(), index) {
                faults.push(format!("{status}: {e:#}"));
            }
        }
        faults
    }
}

/// Lets objects have no members but those that are listed.
fn close(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.contains_key("properties")
                && members.get("type").is_some()
                && !members.contains_key("$ref")
                && !members.contains_key("additionalProperties")
            {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn depth(value: &Value) -> u64 {
    let inner = |deepest: Option<u64>| 1 + deepest.unwrap_or(0);
    match value {
        Value::Array(items) => inner(items.iter().map(depth).max()),
        Value::Object(members) => inner(members.values().map(depth).max()),
        _ => 0,
    }
}

fn nul_in(value: &Value) -> Option<String> {
    value.to_string().replace("\\\\", "").contains("\\u0000").then(|| "holds NUL".to_owned())
}

/// A text as a part of a JSON pointer.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('~', "~0").replace('/', "~1")
}

#[test]
fn the_document_follows_openapi() {
    let meta: Value = serde_json::from_str(include_str!("openapi-3.1.schema.json")).unwrap();
    let mut compiler = Compiler::new();
    let mut schemas = Schemas::new();
    compiler.add_resource("http://document.invalid/meta.json", meta).unwrap();
    let index = compiler.compile("http://document.invalid/meta.json", &mut schemas).unwrap();
    let document = Document::new();
    if let Err(e) = schemas.validate(&document.json, index) {
        panic!("{e:#}");
    }
    // The schema does see what is wrong.
    for (pointer, wrong) in [
        ("/openapi", json!("3.0.0")),
        ("/info/title", json!(7)),
        ("/paths/~1health/get/responses", json!([])),
        ("/components/securitySchemes/bearer/type", json!("magic")),
        ("/components/parameters/x-tenant-id/in", json!("nowhere")),
    ] {
        let mut spoiled = document.json.clone();
        *spoiled.pointer_mut(pointer).unwrap() = wrong;
        assert!(schemas.validate(&spoiled, index).is_err(), "{pointer}");
    }
}

#[test]
fn every_schema_is_one_and_every_reference_leads_somewhere() {
    let mut document = Document::new();
    let names: Vec<String> = document.json["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    for name in names {
        document.compiled(REQUESTS, &format!("/components/schemas/{}", escaped(&name)));
    }
    let mut references = BTreeSet::new();
    collect_references(&document.json, &mut references);
    for reference in &references {
        assert!(document.json.pointer(&reference[1..]).is_some(), "{reference}");
    }
    for name in document.json["components"]["schemas"].as_object().unwrap().keys() {
        assert!(references.contains(&format!("#/components/schemas/{name}")), "nothing refers to {name}");
    }
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    if let Some(reference) = value["$ref"].as_str() {
        found.insert(reference.to_owned());
    }
    match value {
        Value::Object(members) => members.values().for_each(|member| collect_references(member, found)),
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[test]
fn operation_ids_and_examples_are_good() {
    let mut document = Document::new();
    let ids: Vec<Value> = document.operations().into_iter().map(|(_, _, o)| o["operationId"].clone()).collect();
    let distinct: BTreeSet<String> = ids.iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), ids.len());
    let components: Map<String, Value> = document.json["components"]["schemas"].as_object().unwrap().clone();
    for (name, schema) in components {
        for (member, property) in schema["properties"].as_object().into_iter().flatten() {
            let index = document.compiled(REQUESTS, &format!("/components/schemas/{name}/properties/{member}"));
            for example in property["examples"].as_array().into_iter().flatten().chain(property.get("default")) {
                assert!(document.schemas.validate(example, index).is_ok(), "{name}.{member}: {example}");
            }
        }
    }
}
