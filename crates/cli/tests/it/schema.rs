//! `aionis migrate`, and databases the program must refuse.

use serde_json::json;

use crate::support::{
    db,
    place::Place,
    program::{aionis_on, fake, run},
};

const MIGRATIONS: [&str; 12] = [
    "0001_memory",
    "0002_vector_index",
    "0003_pending_since",
    "0004_maintenance",
    "0005_operations",
    "0006_reading_and_forgetting",
    "0007_api_keys",
    "0008_jobs",
    "0009_lifecycle",
    "0010_consolidation",
    "0011_reports",
    "0013_purges",
];

#[test]
fn a_dry_run_changes_nothing_and_a_migration_is_done_once() {
    let place = Place::new();
    let migrate =
        |more: &[&str]| run(&mut aionis_on(&place.data(), &[&["migrate", "--json"], more].concat())).exits(0).json();
    let planned = json!({ "dry_run": true, "applied_before": [], "applied_now": MIGRATIONS });
    assert_eq!(migrate(&["--dry-run"]), planned);
    assert_eq!(place.names(), Vec::<String>::new(), "a dry run makes nothing");
    let done = json!({ "dry_run": false, "applied_before": [], "applied_now": MIGRATIONS });
    assert_eq!(migrate(&[]), done);
    for dry_run in [false, true] {
        let nothing = json!({ "dry_run": dry_run, "applied_before": MIGRATIONS, "applied_now": [] });
        assert_eq!(migrate(if dry_run { &["--dry-run"] } else { &[] }), nothing);
    }
    let told = run(&mut aionis_on(&place.data(), &["migrate"])).exits(0);
    assert_eq!(told.stdout, "the schema is up to date\n");
}

#[test]
fn an_altered_or_newer_schema_is_refused_by_every_command() {
    for (change, wanted) in [
        ("UPDATE schema_migrations SET sha256 = replace(sha256, substr(sha256, 1, 1), 'x')", "other content"),
        ("INSERT INTO schema_migrations VALUES (99, 'later', 'x', 0)", "newer version"),
    ] {
        let place = Place::new();
        run(&mut aionis_on(&place.data(), &["migrate"])).exits(0);
        db::writable(&place.data()).execute(change, []).unwrap();
        for args in
            [&["serve", "--port", "0"][..], &["worker", "--once"], &["migrate"], &["migrate", "--dry-run"], &["verify"]]
        {
            let mut command = aionis_on(&place.data(), args);
            if args[0] == "serve" || args[0] == "worker" {
                fake(&mut command);
            }
            let ended = run(&mut command).exits(1);
            assert!(ended.one_line().contains(wanted), "{args:?}: {ended:?}");
        }
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_by_name() {
    let place = Place::new();
    std::fs::create_dir(place.data()).unwrap();
    let file = place.data().join("aionis.db");
    let garbage = "This is not a database. ".repeat(1_000);
    std::fs::write(&file, &garbage).unwrap();
    for args in [&["serve", "--port", "0"][..], &["worker", "--once"], &["migrate"], &["verify"]] {
        let mut command = aionis_on(&place.data(), args);
        if args[0] == "serve" || args[0] == "worker" {
            fake(&mut command);
        }
        let ended = run(&mut command).exits(1);
        let line = ended.one_line();
        assert!(line.contains(file.to_str().unwrap()) && line.contains("backup"), "{args:?}: {line}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), garbage, "what cannot be read is not overwritten");
}
