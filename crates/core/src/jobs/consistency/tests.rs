use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::{tally::Tally, *};

const ENGINES: [StorageEngine; 2] = [StorageEngine::Embedded, StorageEngine::Postgres];

fn known(engine: StorageEngine) -> Known {
    let now = Timestamp(1_800_000_000_000_000);
    Known { now, engine, space: ("test:model".to_owned(), 4), thresholds: Thresholds::default() }
}

fn asked(batch: Option<(usize, usize)>) -> Asked {
    Asked { batch: batch.map(|(size, index)| BatchPart { size, index }), ..Asked::default() }
}

#[test]
fn the_catalogue_is_well_formed() {
    let names: BTreeSet<&str> = CATALOGUE.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CATALOGUE.len(), "every name is there once");
    for (name, why) in ENFORCED_BY_THE_SCHEMA {
        assert!(!names.contains(name) && !why.is_empty(), "{name} cannot fail and is emitted");
    }
    for check in CATALOGUE {
        assert!(!check.reads.is_empty() && !check.sample.is_empty() && !check.violation.is_empty(), "{}", check.name);
        assert_ne!(check.set, CheckSet::All, "{}", check.name);
        let probed = check.probe.is_none_or(|probe| check.reads.contains(&probe.table()));
        assert!(probed, "{} is probed where it does not look", check.name);
    }
}

#[test]
fn ten_batches_cover_every_check_once_and_there_is_no_eleventh() {
    for engine in ENGINES {
        let (all, none) = asked(None).checks(engine).unwrap();
        assert_eq!(none, None);
        for size in [1, 5, all.len().div_ceil(10), all.len(), 500] {
            let batches = all.len().div_ceil(size);
            let mut seen = Vec::new();
            for index in 0..batches {
                let (checks, report) = asked(Some((size, index))).checks(engine).unwrap();
                let report = report.unwrap();
                assert_eq!((report.size, report.index, report.checks_total), (size, index, all.len()));
                assert_eq!(report.checks_seen, checks.len());
                seen.extend(checks.iter().map(|check| check.name));
            }
            assert_eq!(seen, all.iter().map(|check| check.name).collect::<Vec<_>>());
            let past = asked(Some((size, batches))).checks(engine).unwrap_err();
            assert!(past.message.contains("past the end"), "{past:?}");
        }
        assert!(all.len().div_ceil(all.len().div_ceil(10)) <= 10);
    }
}

#[test]
fn sets_engines_and_budgets_choose_the_checks() {
    let named = |asked: &Asked, engine| {
        asked.checks(engine).unwrap().0.iter().map(|check| check.name).collect::<BTreeSet<&str>>()
    };
    let of = |set| Asked { check_set: set, ..Asked::default() };
    for engine in ENGINES {
        let (scope, cross) = (named(&of(CheckSet::Scope), engine), named(&of(CheckSet::CrossTenant), engine));
        assert!(scope.is_disjoint(&cross));
        assert_eq!(scope.union(&cross).copied().collect::<BTreeSet<_>>(), named(&Asked::default(), engine));
    }
    assert!(!named(&Asked::default(), StorageEngine::Postgres).contains("lexical_rows_without_node"));
    assert!(!named(&Asked::default(), StorageEngine::Embedded).contains("scope_hot_budget_exceeded"));
    let mut budgeted = Asked::default();
    budgeted.thresholds.hot_budget = 1;
    assert!(named(&budgeted, StorageEngine::Embedded).contains("scope_hot_budget_exceeded"));
}

fn outcome(severity: Severity, state: State) -> CheckOutcome {
    let check = CATALOGUE.iter().find(|check| check.severity == severity).unwrap();
    let mut tally = Tally::new(check, 1);
    match state {
        State::Pass => {}
        State::Fail => tally.found(json!({})),
        State::Skipped => tally.skip("why"),
        State::Error => tally.error("what"),
    }
    let outcome = tally.outcome(0);
    assert_eq!(outcome.state, state);
    outcome
}

#[test]
fn strictness_decides_what_is_good_enough() {
    use Severity::{Error as E, Warning as W};
    let holds = |strict, strict_warnings, severity, state| {
        Asked { strict, strict_warnings, ..Asked::default() }.holds([&outcome(severity, state)])
    };
    // (severity, state): without a flag, strict, strict warnings.
    let table = [
        (E, State::Pass, [true, true, true]),
        (E, State::Fail, [false, false, false]),
        (E, State::Error, [false, false, false]),
        (E, State::Skipped, [true, false, false]),
        (W, State::Pass, [true, true, true]),
        (W, State::Fail, [true, true, false]),
        (W, State::Error, [false, false, false]),
        (W, State::Skipped, [true, true, false]),
    ];
    for (severity, state, expected) in table {
        let found = [(false, false), (true, false), (true, true)].map(|(s, w)| holds(s, w, severity, state));
        assert_eq!(found, expected, "{severity} {state}");
    }
    let outcomes = table.map(|(severity, state, _)| outcome(severity, state));
    let summary = Summary::of(&outcomes, 7);
    assert_eq!(
        (summary.errors, summary.warnings, summary.skipped, summary.errored, summary.sample_limit),
        (1, 1, 2, 2, 7)
    );
}

#[test]
fn a_table_that_cannot_be_read_is_an_error_of_its_checks_alone() {
    let checks: Vec<&'static Check> = CATALOGUE.iter().filter(|check| check.set == CheckSet::Scope).collect();
    let mut judge = Judge::new("t/s", &checks, Mode::Full, known(StorageEngine::Embedded), 20);
    judge.unreadable(ScanTable::Decisions, None, "time-out");
    for outcome in judge.finish(|_| 0) {
        let reads = checks.iter().find(|check| check.name == outcome.name).unwrap().reads;
        assert_eq!(outcome.state == State::Error, reads.contains(&ScanTable::Decisions), "{}", outcome.name);
    }
}

#[test]
fn a_probe_that_left_rows_out_does_not_let_a_check_pass() {
    let checks: Vec<&'static Check> = CATALOGUE.iter().filter(|check| check.probe == Some(Probe::OpenWork)).collect();
    let row = |attempts| RawRow {
        table: ScanTable::Outbox,
        cells: vec![
            Cell::Bytes(vec![7; 16]),
            Cell::Text("embed_nodes".to_owned()),
            Cell::Int(attempts),
            Cell::Null,
            Cell::Null,
            Cell::Null,
            Cell::Null,
        ],
    };
    let state = |rows: &[RawRow], complete| {
        let mut judge = Judge::new("t/s", &checks, Mode::Fast, known(StorageEngine::Embedded), 20);
        judge.probed(Probe::OpenWork, rows, complete);
        judge.finish(|_| 0).into_iter().map(|outcome| (outcome.state, outcome.lower_bound)).collect::<Vec<_>>()
    };
    assert_eq!(state(&[row(1)], true), [(State::Pass, false); 2]);
    assert_eq!(state(&[row(1)], false), [(State::Skipped, false); 2]);
    assert_eq!(state(&[row(25)], false), [(State::Fail, true), (State::Skipped, false)]);
}

#[test]
fn counters_begin_anew_when_a_node_becomes_a_rule_again() {
    let checks: Vec<&'static Check> =
        CATALOGUE.iter().filter(|check| check.name == "rule_feedback_counters_mismatch").collect();
    let (id, text) = (Cell::Bytes(vec![7; 16]), |text: &str| Cell::Text(text.to_owned()));
    let state = |negative| {
        let mut judge = Judge::new("t/s", &checks, Mode::Full, known(StorageEngine::Embedded), 20);
        let global =
            [text("active"), text("global"), Cell::Null, Cell::Null, Cell::Int(0), Cell::Int(negative), Cell::Int(10)];
        judge.row(&RawRow { table: ScanTable::Rules, cells: [vec![id.clone()], global.to_vec()].concat() });
        for (number, at) in [(1, 5), (2, 10)] {
            let more = [text("negative"), Cell::Null, text("rule_feedback"), Cell::Null, Cell::Int(at)];
            let cells = [vec![Cell::Bytes(vec![number; 16]), id.clone()], more.to_vec()].concat();
            judge.row(&RawRow { table: ScanTable::Feedback, cells });
        }
        judge.finish(|_| 0).remove(0).state
    };
    assert_eq!([0, 1, 2, 3].map(state), [State::Fail, State::Pass, State::Pass, State::Fail]);
}

fn cell() -> impl Strategy<Value = Cell> {
    let text = prop_oneof![
        "[a-z{}\":\\[\\], -]{0,40}".prop_map(Cell::Text),
        Just(Cell::Text(r#"{"alias_of":"------------------------------------","citations":7,"pin":[]}"#.to_owned())),
        Just(Cell::Text("shared".to_owned())),
        Just(Cell::Text("topic".to_owned())),
        Just(Cell::Text("ready".to_owned())),
    ];
    prop_oneof![
        Just(Cell::Null),
        any::<i64>().prop_map(Cell::Int),
        any::<f64>().prop_map(Cell::Real),
        text,
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Cell::Bytes),
        Just(Cell::Bytes(vec![3; 16])),
        Just(Cell::Unreadable("broken".to_owned())),
    ]
}

fn any_row() -> impl Strategy<Value = RawRow> {
    prop::sample::select(ScanTable::ALL.to_vec()).prop_flat_map(|table| {
        prop::collection::vec(cell(), table.columns().len()).prop_map(move |cells| RawRow { table, cells })
    })
}

proptest! {
    /// Whatever is stored, judging it ends, and says no more than what was seen.
    #[test]
    fn no_row_breaks_the_judge(rows in prop::collection::vec(any_row(), 0..30), embedded: bool) {
        let engine = ENGINES[usize::from(!embedded)];
        let (checks, _) = asked(None).checks(engine).unwrap();
        let mut judge = Judge::new("t/s", &checks, Mode::Full, known(engine), 3);
        rows.iter().for_each(|row| judge.row(row));
        for outcome in judge.finish(|_| 0) {
            prop_assert!(outcome.sample.len() <= 3 && outcome.sample.len() as u64 <= outcome.count);
            prop_assert_eq!(outcome.error.is_some(), outcome.state == State::Error);
        }
    }
}

/// The tables of `docs/jobs.md`.
fn documented() -> (String, String) {
    let mut catalogue =
        "| check | severity | set | engine | fast | a violation is |\n|---|---|---|---|---|---|\n".to_owned();
    for check in CATALOGUE {
        let (set, only) = (check.set, check.only.map_or("both", StorageEngine::as_str));
        let fast = if check.probe.is_some() { "yes" } else { "" };
        let row =
            format!("| `{}` | {} | {set} | {only} | {fast} | {} |\n", check.name, check.severity, check.violation);
        catalogue.push_str(&row);
    }
    let mut enforced = "| check of the reference | made sure by |\n|---|---|\n".to_owned();
    ENFORCED_BY_THE_SCHEMA.iter().for_each(|(name, why)| enforced.push_str(&format!("| `{name}` | {why} |\n")));
    (catalogue, enforced)
}

#[test]
fn the_documents_list_what_the_catalogue_declares() {
    let docs = include_str!("../../../../../docs/jobs.md");
    let (catalogue, enforced) = documented();
    assert!(docs.contains(&catalogue), "docs/jobs.md has to hold:\n{catalogue}");
    assert!(docs.contains(&enforced), "docs/jobs.md has to hold:\n{enforced}");
}
