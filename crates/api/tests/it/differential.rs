//! One behaviour: random histories are told to both engines, and every answer of one is the answer of the other.

use std::time::Duration;

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
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => write().prop_map(Step::Write),
        1 => Just(Step::Repeat),
        3 => recall().prop_map(Step::Recall),
        4 => recall().prop_map(Step::RecallText),
        2 => Just(Step::Derive),
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
    embedded: Service,
    postgres: Service,
}

impl Both {
    async fn ask(&self, path: &str, body: &Value) -> Result<u16, TestCaseError> {
        let (a, b) = tokio::join!(self.embedded.post(path, body), self.postgres.post(path, body));
        prop_assert_eq!(a.status, b.status, "{} {}: {} and {}", path, body, a.text(), b.text());
        if let Some(difference) = difference(&a.json(), &b.json(), "") {
            return Err(TestCaseError::fail(format!("{path} {body} is answered differently at {difference}")));
        }
        Ok(a.status.as_u16())
    }

    async fn derive(&self) {
        for service in [&self.embedded, &self.postgres] {
            tokio::join!(service.drain(), service.drain());
        }
    }

    async fn tell(&self, history: u32, steps: Vec<Step>) -> Result<u32, TestCaseError> {
        let mut accepted = 0;
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
                Step::Derive => self.derive().await,
                Step::Wait(time) => {
                    self.embedded.clock.advance(time);
                    self.postgres.clock.advance(time);
                }
            }
        }
        Ok(accepted)
    }
}

#[test]
fn random_histories_are_answered_alike_by_both_engines() {
    let runtime = Runtime::new().unwrap();
    let both =
        runtime.block_on(async { Both { embedded: Service::start(), postgres: Service::start_on_postgres().await } });
    let config = Config {
        cases: HISTORIES,
        rng_seed: RngSeed::Fixed(20_261_124),
        failure_persistence: None,
        ..Config::default()
    };
    let (history, accepted) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let outcome = TestRunner::new(config).run(&vec(step(), 4..16), |steps| {
        history.set(history.get() + 1);
        accepted.set(accepted.get() + runtime.block_on(both.tell(history.get(), steps))?);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(accepted.get() > HISTORIES, "too little was written to show anything: {}", accepted.get());
    runtime.block_on(async {
        both.derive().await;
        let (a, b) = (both.embedded.stored().await, both.postgres.stored().await);
        assert_eq!(a, b, "heads, hashes, counts and the queue are alike in the end");
        both.embedded.assert_sound().await;
        both.postgres.assert_sound().await;
    });
}
