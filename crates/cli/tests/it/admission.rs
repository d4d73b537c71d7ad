//! Limits of a running service, as its settings name them.

use serde_json::json;

use crate::support::{place::Place, program::fake, server::Server};

#[test]
fn limits_hold_as_they_are_set() {
    let slow = [
        ("RECALL_RATE_LIMIT_RPS", "0.01"),
        ("RECALL_RATE_LIMIT_BURST", "2"),
        ("TENANT_WRITE_RATE_LIMIT_RPS", "0.01"),
        ("TENANT_WRITE_RATE_LIMIT_BURST", "1"),
    ];
    let recall = json!({ "query_text": "herons" });
    let write =
        json!({ "input_text": "x", "nodes": [{ "client_id": "a", "type": "event", "text_summary": "a heron" }] });
    for (switches, recalls, writes) in [
        (&[][..], [200, 200, 200], [200, 200]),
        (&[("RATE_LIMIT_ENABLED", "true")], [200, 200, 200], [200, 200]),
        (&[("RATE_LIMIT_ENABLED", "true"), ("RATE_LIMIT_BYPASS_LOOPBACK", "false")], [200, 200, 429], [200, 200]),
        (&[("TENANT_QUOTA_ENABLED", "true")], [200, 200, 200], [200, 429]),
    ] {
        let place = Place::new();
        let server = Server::start_with(&place.data(), |command| {
            fake(command).envs(slow).envs(switches.iter().copied());
        });
        for status in recalls {
            let answer = server.post("/v1/memory/recall_text", &recall);
            assert_eq!(answer.status, status, "{switches:?}: {answer:?}");
            if status == 429 {
                assert_eq!(answer.body["error"], "rate_limited_recall");
            }
        }
        for status in writes {
            let answer = server.post("/v1/memory/write", &write);
            assert_eq!(answer.status, status, "{switches:?}: {answer:?}");
            if status == 429 {
                assert_eq!(answer.body["error"], "tenant_rate_limited_write");
                assert_eq!(answer.body["details"]["tenant_id"], "default");
            }
        }
        server.stop();
    }
}
