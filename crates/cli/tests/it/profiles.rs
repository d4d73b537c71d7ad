//! The throughput profiles of `deploy/profiles`: every one is accepted, in production too, and names settings only.

use std::path::PathBuf;

use crate::support::{
    place::Place,
    program::{Ended, aionis, run},
};

fn profiles() -> Vec<PathBuf> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/profiles");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn check(place: &Place, profile: &std::path::Path) -> Ended {
    run(aionis(place.path())
        .args(["config", "check", "--json", "--env-file"])
        .arg(profile)
        .env("APP_ENV", "prod")
        .env("EMBEDDING_PROVIDER", "none")
        .env("DATABASE_URL", "postgres://aionis:secret@127.0.0.1/aionis")
        .env("MEMORY_AUTH_MODE", "api_key")
        .env("MEMORY_API_KEYS_JSON", r#"{"a-key-of-32-characters-or-more-x":{"tenant_id":"default"}}"#))
}

#[test]
fn every_profile_can_be_used_in_production() {
    let (place, profiles) = (Place::new(), profiles());
    let names: Vec<_> = profiles.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["benchmark.env", "default.env", "prod.env"]);
    for profile in &profiles {
        let report = check(&place, profile).exits(0).json();
        assert_eq!((&report["ok"], &report["warnings"]), (&true.into(), &serde_json::json!([])), "{profile:?}");
    }
}

#[test]
fn a_profile_with_a_value_that_cannot_be_used_is_refused() {
    let place = Place::new();
    let planted = place.path().join("planted.env");
    for (line, variable) in [
        ("OUTBOX_BATCH_SIZE=100000", "OUTBOX_BATCH_SIZE"),
        ("API_RECALL_MAX_INFLIGHT=512", "API_RECALL_MAX_INFLIGHT"),
        ("API_WRITE_MAX_INFLIHGT=192", "API_WRITE_MAX_INFLIHGT"),
    ] {
        std::fs::write(&planted, format!("{line}\n")).unwrap();
        let report = check(&place, &planted).exits(1).json();
        assert_eq!(report["problems"][0]["variable"], variable, "{report}");
    }
}
