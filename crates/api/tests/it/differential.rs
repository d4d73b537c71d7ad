//! One behaviour: random histories are told to both engines, and every answer of one is the answer of the other.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use aionis_testkit::fixtures::{node_id, scope_of};

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, RngSeed, TestRunner},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    generated::{KEYS, SCOPES, recall, write},
    harness::{RECALL, RECALL_TEXT, Service, WRITE, event},
};

/// Histories per run.
const HISTORIES: u32 = 500;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Write(Value),
    /// The same request again.
    Repeat,
    Recall(Value),
    RecallText(Value),
    /// Workers do all there is to do, several at once.
    Derive,
    Wait(Duration),
    /// An operation other than a write: path and body.
    Operate(&'static str, Value),
    /// A question: path and body.
    Ask(&'static str, Value),
    /// Nodes are looked at and then forgotten.
    Forget(Value),
}

/// Client ids of rules.
const RULES: [&str; 3] = ["rule 1", "rule 2", "rule 3"];
const TOOLS: [&str; 4] = ["psql", "curl", "bash", "git"];

fn context() -> impl Strategy<Value = Value> {
    (select(vec!["deploy", "query", "talk"]), select(vec![Value::Null, json!("ada"), json!("bob")])).prop_map(
        |(intent, agent)| match agent {
            Value::Null => json!({ "intent": intent }),
            agent => json!({ "intent": intent, "agent": { "id": agent } }),
        },
    )
}

fn tools() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(TOOLS.to_vec(), 1..=TOOLS.len())
}

/// A write of one rule.
fn rule() -> impl Strategy<Value = Value> {
    let condition = prop_oneof![
        Just(json!({})),
        Just(json!({ "intent": "deploy" })),
        Just(json!({ "intent": { "$in": ["deploy", "query"] } })),
        Just(json!({ "$not": { "agent.id": "ada" } })),
        Just(json!({ "intent": { "$regex": "^que" } })),
    ];
    let key = select(vec!["allow", "deny", "prefer"]);
    (select(RULES.to_vec()), condition, key, tools(), any::<bool>(), -1..=1).prop_map(
        |(name, condition, key, tools, private, priority)| {
            let slots = json!({ "if": condition, "then": { "tool": { key: tools } }, "priority": priority });
            let mut node = json!({ "client_id": name, "type": "rule", "text_summary": name, "slots": slots });
            node["memory_lane"] = json!(if private { "private" } else { "shared" });
            if private {
                node["owner_agent_id"] = json!("ada");
            }
            json!({ "input_text": "a rule", "nodes": [node] })
        },
    )
}

/// Rules are named by their client ids and become ids when the scope is known.
fn operation() -> impl Strategy<Value = Step> {
    let outcome = || select(vec!["positive", "negative", "neutral"]);
    let state = select(vec!["draft", "shadow", "active", "active", "disabled"]);
    let run = || select(vec![Value::Null, json!("run 1"), json!("run 2")]);
    let with_run = |mut body: Value, run: Value| {
        if !run.is_null() {
            body["run_id"] = run;
        }
        body
    };
    prop_oneof![
        4 => rule().prop_map(Step::Write),
        4 => (select(RULES.to_vec()), state).prop_map(|(rule, state)| Step::Operate("/v1/memory/rules/state",
            json!({ "rule_node_id": rule, "state": state, "input_text": "why" }))),
        2 => (select(RULES.to_vec()), outcome(), run()).prop_map(move |(rule, outcome, run)| Step::Operate("/v1/memory/feedback",
            with_run(json!({ "rule_node_id": rule, "outcome": outcome, "input_text": "why", "note": "as bob@x.com said" }), run))),
        3 => (context(), any::<bool>()).prop_map(|(context, shadow)| Step::Operate("/v1/memory/rules/evaluate",
            json!({ "context": context, "include_shadow": shadow }))),
        3 => (context(), tools(), any::<bool>(), run()).prop_map(move |(context, tools, strict, run)|
            Step::Operate("/v1/memory/tools/select",
                with_run(json!({ "context": context, "candidates": tools, "strict": strict, "include_shadow": true }), run))),
        3 => (context(), tools(), outcome(), run(), any::<bool>()).prop_map(move |(context, tools, outcome, run, all)|
            Step::Operate("/v1/memory/tools/feedback", with_run(json!({
                "context": context, "candidates": tools, "selected_tool": tools[0], "outcome": outcome, "input_text": "why",
                "target": if all { "all" } else { "tool" } }), run))),
        2 => (select(KEYS.to_vec()), outcome(), any::<bool>()).prop_map(|(key, outcome, activate)|
            Step::Operate("/v1/memory/nodes/activate",
                json!({ "client_ids": [key, "nobody"], "outcome": outcome, "activate": activate, "input_text": "why" }))),
        1 => (select(KEYS.to_vec()), select(vec!["warm", "hot"])).prop_map(|(key, tier)|
            Step::Operate("/v1/memory/archive/rehydrate",
                json!({ "client_ids": [key], "target_tier": tier, "input_text": "why" }))),
    ]
}

/// A state of the scope, early in its history, or none.
fn as_of() -> impl Strategy<Value = Value> {
    select(vec![Value::Null, Value::Null, json!(1), json!(2), json!(3), json!("1970-01-01T00:00:00Z")])
}

fn with_state(mut body: Value, as_of: Value) -> Value {
    if !as_of.is_null() {
        body["as_of"] = as_of;
    }
    body
}

fn reading() -> impl Strategy<Value = Step> {
    let filter = prop_oneof![
        Just(json!({})),
        select(KEYS.to_vec()).prop_map(|key| json!({ "client_id": key })),
        select(vec!["event", "rule", "topic"]).prop_map(|kind| json!({ "type": kind })),
        Just(json!({ "text_contains": "HARBOUR" })),
        Just(json!({ "slots_contains": { "if": {} } })),
        Just(json!({ "tiers": ["hot", "warm"], "memory_lane": "shared" })),
        Just(json!({ "owner_agent_id": "ada", "consumer_agent_id": "ada" })),
    ];
    let find = (filter, as_of(), 1..6, any::<bool>()).prop_map(|(mut body, state, limit, all)| {
        (body["limit"], body["include_meta"], body["include_slots"]) = (json!(limit), json!(all), json!(all));
        Step::Ask("/v1/memory/find", with_state(body, state))
    });
    let past = (recall(), as_of()).prop_map(|(body, state)| Step::RecallText(with_state(body, state)));
    let names = proptest::sample::subsequence([&KEYS[..], &RULES[..]].concat(), 1..=2);
    let forget = prop_oneof![
        3 => names.prop_map(|names| json!({ "client_ids": names })),
        1 => Just(json!({ "filter": { "text_contains": "bob" } })),
    ];
    prop_oneof![4 => find, 3 => past, 3 => forget.prop_map(Step::Forget), 1 => Just(Step::Ask("/v1/memory/verify", json!({})))]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => write().prop_map(Step::Write),
        1 => Just(Step::Repeat),
        3 => recall().prop_map(Step::Recall),
        4 => recall().prop_map(Step::RecallText),
        2 => Just(Step::Derive),
        7 => operation(),
        4 => reading(),
        1 => select(vec![1, 1_000, 3_600_000]).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
    ]
}

/// The request in scopes that no other history knows.
fn in_history(mut body: Value, history: u32) -> Value {
    fn rename(value: &mut Value, history: u32) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(scope) if name == "scope" => *scope = format!("h{history}-{scope}"),
                        _ => rename(value, history),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| rename(item, history)),
            _ => {}
        }
    }
    body.as_object_mut().unwrap().entry("scope").or_insert_with(|| Value::from("default"));
    rename(&mut body, history);
    body
}

/// The first place where two answers differ; times of this machine aside, numbers to a millionth.
fn difference(a: &Value, b: &Value, at: &str) -> Option<String> {
    let differs = || Some(format!("{at}: {a} on one engine, {b} on the other"));
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            if x.keys().ne(y.keys()) {
                return differs();
            }
            let own_time = |name: &str| name.ends_with("_ms") && name != "oldest_ms" || name == "timings";
            x.iter()
                .filter(|(name, _)| !own_time(name))
                .find_map(|(name, value)| difference(value, &y[name], &format!("{at}.{name}")))
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(n, (x, y))| difference(x, y, &format!("{at}.{n}")))
        }
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            if (x - y).abs() > 1e-6 { differs() } else { None }
        }
        _ if a == b => None,
        _ => differs(),
    }
}

struct Both {
    asked: AtomicU32,
    embedded: Service,
    postgres: Service,
}

impl Both {
    /// Looks at what would be forgotten, and forgets it.
    async fn forget(&self, body: Value) -> Result<u16, TestCaseError> {
        const FORGET: &str = "/v1/memory/forget";
        let status = self.ask(FORGET, &body).await?;
        if status != 200 {
            return Ok(status);
        }
        let look = self.embedded.post(FORGET, &body).await.json();
        let mut body = body;
        body["confirmation_token"] = look["confirmation_token"].clone();
        self.ask(FORGET, &body).await
    }

    async fn ask(&self, path: &str, body: &Value) -> Result<u16, TestCaseError> {
        // Ids of decisions follow from the key; without one each engine would draw its own.
        let key = self.asked.fetch_add(1, Ordering::Relaxed).to_string();
        let headers = [("idempotency-key", key.as_str())];
        let headers = if path.contains("/tools/") { &headers[..] } else { &[] };
        let (a, b) =
            tokio::join!(self.embedded.post_with(path, headers, body), self.postgres.post_with(path, headers, body));
        prop_assert_eq!(a.status, b.status, "{} {}: {} and {}", path, body, a.text(), b.text());
        if let Some(difference) = difference(&a.json(), &b.json(), "") {
            let whole = format!("{} and {}", a.text(), b.text());
            return Err(TestCaseError::fail(format!("{path} {body} is answered differently at {difference}: {whole}")));
        }
        Ok(a.status.as_u16())
    }

    async fn derive(&self) {
        for service in [&self.embedded, &self.postgres] {
            tokio::join!(service.drain(), service.drain());
        }
    }

    async fn tell(&self, history: u32, steps: Vec<Step>) -> Result<(u32, u32, u32), TestCaseError> {
        let (mut accepted, mut operated, mut forgotten) = (0, 0, 0);
        let mut last = None;
        for scope in SCOPES {
            // What edges may lead to.
            let nodes: Vec<Value> = KEYS.iter().map(|key| event(key, &format!("the harbour {key}"))).collect();
            let body = json!({ "scope": scope, "input_text": "before", "nodes": nodes });
            prop_assert_eq!(self.ask(WRITE, &in_history(body, history)).await?, 200);
        }
        for step in steps {
            match step {
                Step::Write(body) => {
                    let body = in_history(body, history);
                    accepted += u32::from(self.ask(WRITE, &body).await? == 200);
                    last = Some(body);
                }
                Step::Repeat => {
                    if let Some(body) = &last {
                        self.ask(WRITE, body).await?;
                    }
                }
                Step::Recall(body) => _ = self.ask(RECALL, &in_history(body, history)).await?,
                Step::RecallText(body) => _ = self.ask(RECALL_TEXT, &in_history(body, history)).await?,
                Step::Operate(path, body) => {
                    let mut body = in_history(body, history);
                    if let Some(rule) = body.get("rule_node_id").and_then(Value::as_str) {
                        let scope = scope_of("default", body["scope"].as_str().unwrap());
                        body["rule_node_id"] = json!(node_id(&scope, rule));
                    }
                    operated += u32::from(self.ask(path, &body).await? == 200);
                }
                Step::Ask(path, body) => _ = self.ask(path, &in_history(body, history)).await?,
                Step::Forget(body) => forgotten += u32::from(self.forget(in_history(body, history)).await? == 200),
                Step::Derive => self.derive().await,
                Step::Wait(time) => {
                    self.embedded.clock.advance(time);
                    self.postgres.clock.advance(time);
                }
            }
        }
        Ok((accepted, operated, forgotten))
    }
}

#[test]
fn random_histories_are_answered_alike_by_both_engines() {
    let runtime = Runtime::new().unwrap();
    let both = runtime.block_on(async {
        Both { asked: AtomicU32::new(0), embedded: Service::start(), postgres: Service::start_on_postgres().await }
    });
    let config = Config {
        cases: HISTORIES,
        rng_seed: RngSeed::Fixed(20_261_124),
        failure_persistence: None,
        ..Config::default()
    };
    let (history, accepted, operated, gone) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let outcome = TestRunner::new(config).run(&vec(step(), 4..20), |steps| {
        history.set(history.get() + 1);
        let (written, done, forgotten) = runtime.block_on(both.tell(history.get(), steps))?;
        accepted.set(accepted.get() + written);
        operated.set(operated.get() + done);
        gone.set(gone.get() + forgotten);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(operated.get() > HISTORIES, "too little was operated to show anything: {}", operated.get());
    assert!(gone.get() > HISTORIES / 4, "too little was forgotten to show anything: {}", gone.get());
    assert!(accepted.get() > HISTORIES, "too little was written to show anything: {}", accepted.get());
    runtime.block_on(async {
        both.derive().await;
        let (a, b) = (both.embedded.stored().await, both.postgres.stored().await);
        assert_eq!(a, b, "heads, hashes, counts and the queue are alike in the end");
        both.embedded.assert_sound().await;
        both.postgres.assert_sound().await;
    });
}
