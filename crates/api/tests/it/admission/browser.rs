//! Where nobody is authenticated, web pages neither read nor write.

use aionis_api::CorsOrigins;
use serde_json::json;

use super::post_from;
use crate::harness::{RECALL_TEXT, Service, WRITE, event, writing};

const HERE: (&str, &str) = ("host", "127.0.0.1:3001");

#[tokio::test]
async fn a_page_neither_reads_nor_writes() {
    let service = Service::start();
    let (note, question) = (writing(&[event("e", "herons")]), json!({ "query_text": "herons" }));
    for (path, body) in [(WRITE, &note), (RECALL_TEXT, &question)] {
        for origin in ["https://evil.example", "null", "http://localhost:8080"] {
            let answer = post_from(&service, "127.0.0.1", &[HERE, ("origin", origin)], path, body).await;
            assert_eq!(answer.refusal(), (403, "origin_not_allowed".to_owned()), "{origin}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        let answer = post_from(&service, "127.0.0.1", &[("host", "evil.example:3001")], path, body).await;
        assert_eq!(answer.refusal(), (403, "host_not_allowed".to_owned()));
    }
    assert_eq!(service.stored().await.commits(), 0);
    let own = [HERE, ("origin", "http://127.0.0.1:3001")];
    post_from(&service, "127.0.0.1", &own, WRITE, &note).await.ok();
    let answer = post_from(&service, "127.0.0.1", &[HERE], RECALL_TEXT, &question).await;
    answer.ok();
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{:?}", answer.headers);
}

#[tokio::test]
async fn a_page_of_a_named_origin_may() {
    let service = Service::with(|setup| setup.api.cors = CorsOrigins::parse("https://app.example"));
    let note = writing(&[event("e", "herons")]);
    let answer = post_from(&service, "127.0.0.1", &[HERE, ("origin", "https://app.example")], WRITE, &note).await;
    answer.ok();
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
}
