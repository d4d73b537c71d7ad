//! What HTTP around the endpoints looks like.

use aionis_api::CorsOrigins;
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, StatusCode, header},
};
use serde_json::json;
use uuid::Uuid;

use crate::harness::{Answer, RECALL, RECALL_TEXT, Service, WRITE, event, writing};

async fn request(service: &Service, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    service.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn unknown_members_are_ignored_everywhere() {
    let service = Service::start();
    let body = json!({
        "input_text": "x", "future": { "a": null },
        "nodes": [{ "client_id": "a", "type": "event", "future": 1 }, { "client_id": "b", "type": "event" }],
        "edges": [{ "type": "part_of", "future": [], "src": { "client_id": "a", "future": "" }, "dst": { "client_id": "b" } }],
    });
    service.write(&body).await;
    service.recall_text(&json!({ "query_text": "x", "future": true })).await;
}

#[tokio::test]
async fn unknown_routes_have_one_shape() {
    let service = Service::with(|setup| setup.api.cors = CorsOrigins::Any);
    for (method, path) in [
        (Method::POST, "/x"),
        (Method::GET, "/"),
        (Method::GET, WRITE),
        (Method::PUT, RECALL),
        (Method::DELETE, RECALL_TEXT),
        (Method::POST, "/health"),
        (Method::POST, "/v1/memory/write/"),
        (Method::POST, "/V1/memory/write"),
        (Method::POST, "/v1//memory/write"),
        (Method::GET, "/v1/memory/..%2fhealth?q=1"),
        (Method::TRACE, "/health"),
    ] {
        let answer = request(&service, method.clone(), path, &[]).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
        let shape =
            json!({ "message": format!("Route {method}:{path} not found"), "error": "Not Found", "statusCode": 404 });
        assert_eq!(answer.json(), shape);
        assert!(answer.header("x-request-id").is_some() && answer.header("access-control-allow-origin").is_some());
    }
}

#[tokio::test]
async fn options_is_answered_everywhere() {
    let service = Service::with(|setup| setup.api.cors = CorsOrigins::Any);
    for path in [WRITE, RECALL, "/health", "/metrics", "/nowhere", "*"] {
        let answer = request(&service, Method::OPTIONS, path, &[("origin", "https://a.example")]).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0), "{path}");
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "GET,POST,OPTIONS"),
            ("access-control-expose-headers", "x-request-id"),
            ("access-control-max-age", "600"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let allowed = answer.header("access-control-allow-headers").unwrap();
        for name in ["content-type", "x-api-key", "x-tenant-id", "authorization", "x-request-id"] {
            assert!(allowed.split(',').any(|one| one == name), "{name}");
        }
        assert!(answer.header("vary").is_none(), "any origin gets the same answer");
    }
}

#[tokio::test]
async fn listed_origins_are_allowed_and_no_others() {
    let service =
        Service::with(|setup| setup.api.cors = CorsOrigins::parse(" https://a.example , https://b.example,, "));
    for (origin, allowed) in [
        (Some("https://b.example"), true),
        (Some("https://c.example"), false),
        (Some("https://b.example.evil"), false),
        (Some("HTTPS://B.EXAMPLE"), false),
        (Some("null"), false),
        (None, false),
    ] {
        let headers: Vec<(&str, &str)> = origin.map(|origin| ("origin", origin)).into_iter().collect();
        for (method, path) in [(Method::OPTIONS, WRITE), (Method::GET, "/health"), (Method::GET, "/nowhere")] {
            let answer = request(&service, method, path, &headers).await;
            assert_eq!(answer.header("access-control-allow-origin"), origin.filter(|_| allowed), "{origin:?}");
            assert_eq!(answer.header("vary"), allowed.then_some("Origin"));
            assert_eq!(answer.header("access-control-allow-methods").is_some(), allowed);
        }
    }
}

#[test]
fn a_star_anywhere_in_the_list_means_every_origin() {
    assert_eq!(CorsOrigins::parse("https://a.example, *"), CorsOrigins::Any);
    assert_eq!(CorsOrigins::parse(" "), CorsOrigins::Listed(Vec::new()));
}

#[tokio::test]
async fn the_request_id_comes_back() {
    let service = Service::start();
    for (headers, expected) in [
        (vec![("x-request-id", " mine ")], "mine"),
        (vec![("request-id", "theirs"), ("x-request-id", "mine")], "theirs"),
        (vec![("request-id", "  "), ("x-request-id", "mine")], "mine"),
    ] {
        for (method, path) in
            [(Method::GET, "/health"), (Method::GET, "/nowhere"), (Method::OPTIONS, WRITE), (Method::POST, WRITE)]
        {
            let answer = request(&service, method.clone(), path, &headers).await;
            assert_eq!(answer.header("x-request-id"), Some(expected), "{method} {path}");
        }
    }
    for headers in [vec![], vec![("x-request-id", "  ")]] {
        let answers = [
            request(&service, Method::GET, "/health", &headers).await,
            request(&service, Method::POST, WRITE, &headers).await,
        ];
        let ids = answers.each_ref().map(|answer| Uuid::parse_str(answer.header("x-request-id").unwrap()).unwrap());
        assert!(ids[0] != ids[1] && ids.iter().all(|id| id.get_version_num() == 4));
    }
}

#[tokio::test]
async fn a_request_id_that_is_no_text_is_replaced() {
    let service = Service::start();
    let mut builder = Request::get("/health");
    builder = builder.header("x-request-id", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
    let answer = service.send(builder.body(Body::empty()).unwrap()).await;
    assert!(Uuid::parse_str(answer.header("x-request-id").unwrap()).is_ok());
}

#[tokio::test]
async fn only_json_is_taken() {
    let service = Service::start();
    let body = writing(&[event("e1", "one")]).to_string();
    let send = async |content_type: Option<&str>| {
        let mut request = Request::post(WRITE);
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        service.send(request.body(Body::from(body.clone())).unwrap()).await
    };
    for refused in [
        "text/plain",
        "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "json",
        "",
        "text/plain, application/json",
    ] {
        let answer = send(Some(refused)).await;
        assert_eq!(answer.refusal(), (415, "unsupported_media_type".to_owned()), "{refused:?}");
        assert!(answer.json()["message"].as_str().unwrap().contains("application/json"));
    }
    assert_eq!(service.stored().await.commits(), 0);
    for taken in
        [None, Some("application/json"), Some("Application/JSON; charset=UTF-8"), Some("application/problem+json")]
    {
        assert_eq!(send(taken).await.status, StatusCode::OK, "{taken:?}");
    }
}

#[tokio::test]
async fn every_answer_is_json_in_utf_8() {
    let service = Service::start();
    let answers = [
        service.get("/health").await,
        service.get("/nowhere").await,
        service.post(WRITE, &json!({})).await,
        service.post(WRITE, &writing(&[event("e1", "one")])).await,
        service.post(RECALL_TEXT, &json!({ "query_text": "one" })).await,
    ];
    for answer in answers {
        assert!(answer.header("content-type").unwrap().starts_with("application/json"), "{answer:?}");
        answer.json();
    }
}

#[tokio::test]
async fn a_head_request_gets_the_head_of_health() {
    let service = Service::start();
    let answer = request(&service, Method::HEAD, "/health", &[]).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
}
