//! Salience as answers show it, and what recalls count as used.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Service, event, writing};

const ONE_DAY: Duration = Duration::from_secs(86_400);

async fn node(service: &Service, client_id: &str) -> Value {
    let found = service.post("/v1/memory/find", &json!({ "client_ids": [client_id], "include_meta": true })).await.ok();
    found["nodes"][0].clone()
}

fn asked(more: Value) -> Value {
    let mut body = json!({ "query_text": "alpha words", "include_meta": true, "return_debug": false });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

#[tokio::test]
async fn answers_show_the_salience_of_now_and_score_by_it() {
    for postgres in [false, true] {
        let service = if postgres { Service::start_on_postgres().await } else { Service::start() };
        service.write(&writing(&[event("a", "alpha words")])).await;
        let fresh = service.recall_text(&asked(json!({}))).await;
        assert_eq!(fresh["seeds"][0]["salience"], 0.5);
        assert_eq!(node(&service, "a").await["salience"], 0.5);
        service.clock.advance(ONE_DAY);
        let aged = service.recall_text(&asked(json!({}))).await;
        let salience = aged["seeds"][0]["salience"].as_f64().unwrap();
        assert!((salience - 0.4985).abs() < 1e-12, "{salience}");
        assert_eq!(node(&service, "a").await["salience"], aged["seeds"][0]["salience"]);
        assert_eq!(aged["subgraph"]["nodes"][0]["salience"], aged["seeds"][0]["salience"]);
        let score = |answer: &Value| answer["ranked"][0]["score"].as_f64().unwrap();
        assert!(score(&aged) < score(&fresh), "{} {}", score(&aged), score(&fresh));
        assert_eq!(service.stored().await.commits(), 1);
    }
}

#[tokio::test]
async fn ops_34_seeds_of_recalls_count_as_used() {
    for postgres in [false, true] {
        let service = if postgres {
            Service::on_postgres_with(|setup| setup.recall_activates = true).await
        } else {
            Service::with(|setup| setup.recall_activates = true)
        };
        service.write(&writing(&[event("a", "alpha words"), event("b", "quite other things")])).await;
        service.clock.advance(30 * ONE_DAY);
        service.recall_text(&asked(json!({ "as_of": 1 }))).await;
        service.engine.flush().await;
        assert_eq!(node(&service, "a").await["last_activated"], Value::Null, "an earlier state is not used");
        let before = node(&service, "a").await["salience"].as_f64().unwrap();
        let answer = service.recall_text(&asked(json!({ "limit": 1 }))).await;
        assert_eq!(answer["seeds"].as_array().unwrap().len(), 1);
        service.engine.flush().await;
        let used = node(&service, "a").await;
        assert!(used["last_activated"].is_string() && used["salience"].as_f64().unwrap() > before, "{used}");
        assert_eq!(node(&service, "b").await["last_activated"], Value::Null);
        assert_eq!(service.stored().await.commits(), 1, "no commit tells of use");
        service.assert_sound().await;
    }
}
