//! What is measured of a deployment, as the triggers look at it. Whatever cannot be measured says why.

use aionis_core::gates::scale::{ScaleSignals, Signal};
use aionis_store::{LoadFacts, TenantLoad};

use super::prometheus::{OBSERVATIONS_MIN, Percentile, Window};

/// Wait for a connection from which on the pool is said to hold reads up, in seconds.
pub(crate) const POOL_WAIT_S: f64 = 0.05;
/// Write up to which writes are stable, in ms: the bound of tier A.
const STABLE_WRITE_MS: f64 = 200.0;
/// Routes, as metrics name them.
const WRITE: &str = "write";
const RECALL_TEXT: &str = "recall_text";
/// What is counted of refusals, and of waits before them.
const REFUSED: &str = "aionis_admission_refused_total";
const WAITS: &str = "aionis_gate_wait_seconds";
/// Requests whose bodies do not fit into memory are refused before they come to a gate.
const BODIES: &str = "body_backpressure";

/// A gate requests wait at: the code it refuses with, and the routes that pass it.
struct Gate {
    code: &'static str,
    routes: &'static [&'static str],
}

const GATES: [Gate; 2] = [
    Gate {
        code: "recall_backpressure",
        routes: &[
            "recall",
            RECALL_TEXT,
            "find",
            "node",
            "node_history",
            "commits",
            "commit",
            "verify",
            "rules_evaluate",
            "tools_select",
            "decision_replay",
        ],
    },
    Gate {
        code: "write_backpressure",
        routes: &[WRITE, "forget", "feedback", "rules_state", "tools_feedback", "nodes_activate", "archive_rehydrate"],
    },
];

/// What an operator tells, because nothing here can measure it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Commits per second the deployment can take.
    pub(super) write_capacity_per_s: Option<f64>,
    /// 95th percentile of the database server's CPU, in percent.
    pub(super) db_cpu_p95_percent: Option<f64>,
}

/// All signals. `window` is two readings of a server's metrics, or why there are none.
pub(super) fn signals(facts: &LoadFacts, window: &Result<Window, String>, told: Told) -> ScaleSignals {
    let of_metrics = |look: &dyn Fn(&Window) -> Signal| match window {
        Ok(window) => look(window),
        Err(why) => Signal::missing(why.clone()),
    };
    let write_p95_ms = of_metrics(&|window| request_p95(window, WRITE));
    let read_pool_saturated = of_metrics(&|window| pool(window, write_p95_ms.value));
    ScaleSignals {
        recall_p95_ms: of_metrics(&|window| request_p95(window, RECALL_TEXT)),
        queue_wait_p95_ms: of_metrics(&queue_wait),
        queue_refused_share: of_metrics(&refused),
        db_cpu_p95_percent: match told.db_cpu_p95_percent {
            Some(percent) => Signal::measured(percent, "--db-cpu-p95-percent"),
            None => Signal::missing("the database does not tell its CPU; give --db-cpu-p95-percent"),
        },
        top_tenant_write_share: of_capacity(busiest_tenant(facts), told, "the busiest hour of the busiest tenant"),
        write_capacity_used: of_capacity(facts.commits_busiest_hour, told, "the busiest hour of all tenants"),
        top_tenant_growth_share: growth(facts),
        nodes_grown: Signal::measured(number(grown(facts)), "nodes first written in the window of growth"),
        tenants: Signal::measured(number(facts.tenants.len() as u64), "tenants in memory_scopes"),
        read_pool_saturated,
        write_p95_ms,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows")]
fn number(count: u64) -> f64 {
    count as f64
}

fn busiest_tenant(facts: &LoadFacts) -> u64 {
    facts.tenants.values().map(|tenant| tenant.commits_busiest_hour).max().unwrap_or(0)
}

fn grown(facts: &LoadFacts) -> u64 {
    facts.tenants.values().map(|tenant| tenant.nodes_grown).sum()
}

/// A rate as a part of what the deployment can take.
fn of_capacity(commits: u64, told: Told, what: &str) -> Signal {
    let per_s = number(commits) / 3_600.0;
    match told.write_capacity_per_s {
        Some(capacity) => {
            Signal::measured(per_s / capacity, format!("{per_s:.3} commits/s in {what}, of {capacity}/s"))
        }
        None => Signal::missing(format!(
            "{per_s:.3} commits/s in {what}, but the capacity is unknown; give --write-capacity-per-s"
        )),
    }
}

fn growth(facts: &LoadFacts) -> Signal {
    let all = grown(facts);
    let top = facts.tenants.iter().max_by_key(|(_, tenant): &(&String, &TenantLoad)| tenant.nodes_grown);
    match top {
        Some((name, tenant)) if all > 0 => Signal::measured(
            number(tenant.nodes_grown) / number(all),
            format!("{} of {all} nodes of the window are of tenant {name}", tenant.nodes_grown),
        ),
        _ => Signal::missing("nothing was written in the window of growth"),
    }
}

fn percentile_ms(percentile: Percentile, what: &str) -> Signal {
    let Percentile { seconds, observations } = percentile;
    match seconds {
        Some(seconds) => Signal::measured(seconds * 1e3, format!("{what}: {observations} observations in the window")),
        None => {
            Signal::missing(format!("{what}: {observations} observations in the window, {OBSERVATIONS_MIN} are needed"))
        }
    }
}

fn request_p95(window: &Window, route: &str) -> Signal {
    let labels = [("route", route), ("class", "2xx")];
    percentile_ms(
        window.percentile("aionis_http_request_seconds", &labels, 0.95),
        &format!("requests of the route {route}"),
    )
}

/// Requests of some routes in the window; nothing when the server was started anew.
fn requests(window: &Window, routes: &[&str]) -> Option<f64> {
    let grown = routes.iter().map(|route| window.grown("aionis_http_requests_total", &[("route", route)]));
    grown.sum()
}

/// Requests of all routes that pass a gate; nothing when there were none.
fn gated(window: &Window) -> Option<f64> {
    let all: f64 = GATES.iter().map(|gate| requests(window, gate.routes)).sum::<Option<f64>>()?;
    (all > 0.0).then_some(all)
}

/// Only requests that had to wait are observed: where there are requests and none waited, the wait is nothing. Of a server
/// that does not say that it observes waits, nothing is known.
fn queue_wait(window: &Window) -> Signal {
    if !window.after.declares(WAITS) {
        return Signal::missing(format!("the server does not show {WAITS}"));
    }
    let Some(requests) = gated(window) else { return Signal::missing("no requests in the window") };
    let waited = window.percentile(WAITS, &[], 0.95);
    match waited.seconds {
        Some(_) => percentile_ms(waited, "waits for admission"),
        None if waited.observations < 1.0 => {
            Signal::measured(0.0, format!("none of {requests} requests in the window had to wait"))
        }
        None => percentile_ms(waited, "waits for admission"),
    }
}

/// The part of requests that was refused because queues or memory were full; of the gate that refused the larger part.
/// Callers that ask too often are refused by limits of their own, which say nothing about the deployment.
fn refused(window: &Window) -> Signal {
    if !window.after.declares(REFUSED) {
        return Signal::missing(format!("the server does not show {REFUSED}"));
    }
    let by_code = |code: &str| window.grown(REFUSED, &[("code", code)]);
    let (Some(all), Some(bodies)) = (gated(window), by_code(BODIES)) else {
        return Signal::missing("no requests in the window");
    };
    let mut worst = (bodies / all, format!("{bodies} of {all} requests in the window refused with {BODIES}"));
    for Gate { code, routes } in &GATES {
        let (Some(requests), Some(refused)) = (requests(window, routes), by_code(code)) else {
            return Signal::missing("the server was started anew in the window");
        };
        if requests > 0.0 && refused / requests > worst.0 {
            let evidence = format!("{refused} of {requests} requests of its gate in the window refused with {code}");
            worst = (refused / requests, evidence);
        }
    }
    Signal::measured(worst.0, worst.1)
}

/// Whether every connection is in use, requests wait for one, and writes do not suffer: what replicas would help with.
fn pool(window: &Window, write_p95_ms: Option<f64>) -> Signal {
    let idle = [&window.before, &window.after].map(|reading| reading.gauge("aionis_pool_idle_connections"));
    let [Some(before), Some(after)] = idle else { return Signal::missing("the server tells of no pool") };
    let waits = window.percentile("aionis_pool_wait_seconds", &[], 0.95);
    let (Some(wait), Some(write)) = (waits.seconds, write_p95_ms) else {
        return Signal::missing("too few transactions or writes in the window");
    };
    let saturated = before + after < 1.0 && wait > POOL_WAIT_S && write <= STABLE_WRITE_MS;
    let evidence = format!(
        "idle connections {before} and {after}, 95th percentile of the wait for one {:.1} ms, of writes {write:.1} ms",
        wait * 1e3
    );
    Signal::measured(f64::from(u8::from(saturated)), evidence)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::super::prometheus::Reading;
    use super::*;

    const UNTOLD: Told = Told { write_capacity_per_s: None, db_cpu_p95_percent: None };

    fn facts() -> LoadFacts {
        let of =
            |nodes_grown, commits_busiest_hour| TenantLoad { nodes_grown, commits_busiest_hour, scopes: 1, nodes: 9 };
        let tenants = [("a".to_owned(), of(60, 3_600)), ("b".to_owned(), of(40, 1_800))].into();
        LoadFacts { tenants, commits_busiest_hour: 5_400, ..LoadFacts::default() }
    }

    /// A reading of a server that shows refusals and waits.
    fn reading(pairs: &[(&str, f64)]) -> Reading {
        of_server(pairs, &[REFUSED, WAITS])
    }

    fn of_server(pairs: &[(&str, f64)], declared: &[&str]) -> Reading {
        let mut text = String::new();
        for name in declared {
            writeln!(text, "# TYPE {name} untyped").unwrap();
        }
        for (series, value) in pairs {
            writeln!(text, "{series} {value}").unwrap();
        }
        Reading::parse(&text).unwrap_or_default()
    }

    #[test]
    fn what_the_database_tells_is_measured_and_the_rest_says_why_not() {
        let none = signals(&facts(), &Err("no --metrics-url".to_owned()), UNTOLD);
        assert_eq!(none.top_tenant_growth_share.value, Some(0.6));
        assert_eq!((none.tenants.value, none.nodes_grown.value), (Some(2.0), Some(100.0)));
        assert_eq!((none.write_p95_ms.value, none.write_p95_ms.evidence.as_str()), (None, "no --metrics-url"));
        assert!(none.top_tenant_write_share.evidence.contains("--write-capacity-per-s"));
        assert!(none.db_cpu_p95_percent.evidence.contains("--db-cpu-p95-percent"));
        let told = Told { write_capacity_per_s: Some(4.0), db_cpu_p95_percent: Some(70.0) };
        let told = signals(&facts(), &Err(String::new()), told);
        assert_eq!((told.top_tenant_write_share.value, told.write_capacity_used.value), (Some(0.25), Some(0.375)));
        assert_eq!(told.db_cpu_p95_percent.value, Some(70.0));
        let empty = signals(&LoadFacts::default(), &Err(String::new()), UNTOLD);
        assert_eq!(empty.top_tenant_growth_share.value, None);
    }

    #[test]
    fn metrics_are_read_over_the_window() {
        let write =
            |le: &str| format!("aionis_http_request_seconds_bucket{{route=\"write\",class=\"2xx\",le=\"{le}\"}}");
        let requests = "aionis_http_requests_total{route=\"write\",status=\"200\"}";
        let before = reading(&[("aionis_pool_idle_connections", 0.0)]);
        let after = reading(&[
            (&write("0.1"), 100.0),
            (&write("+Inf"), 100.0),
            (requests, 100.0),
            ("aionis_pool_idle_connections", 0.0),
            ("aionis_pool_wait_seconds_bucket{le=\"0.05\"}", 0.0),
            ("aionis_pool_wait_seconds_bucket{le=\"0.1\"}", 50.0),
        ]);
        let seen = signals(&facts(), &Ok(Window { before, after }), UNTOLD);
        assert_eq!(seen.write_p95_ms.value.map(f64::round), Some(95.0));
        assert_eq!(seen.recall_p95_ms.value, None);
        assert_eq!((seen.queue_refused_share.value, seen.queue_wait_p95_ms.value), (Some(0.0), Some(0.0)));
        assert_eq!(seen.read_pool_saturated.value, Some(1.0));
        let idle = Window { before: reading(&[("x", 1.0)]), after: reading(&[("x", 1.0)]) };
        let seen = signals(&facts(), &Ok(idle), UNTOLD);
        let values = [seen.queue_wait_p95_ms.value, seen.queue_refused_share.value, seen.read_pool_saturated.value];
        assert_eq!(values, [None, None, None]);
    }

    fn asked(route: &str) -> String {
        format!("aionis_http_requests_total{{route=\"{route}\",status=\"200\"}}")
    }

    fn turned_away(code: &str) -> String {
        format!("{REFUSED}{{code=\"{code}\"}}")
    }

    fn share(pairs: &[(&str, f64)]) -> Option<f64> {
        refused(&Window { before: reading(&[("x", 1.0)]), after: reading(pairs) }).value
    }

    #[test]
    fn only_full_queues_and_memory_count_as_refusals_and_by_their_gate() {
        let (write, find, health) = (asked("write"), asked("find"), asked("health"));
        let requests = [(write.as_str(), 100.0), (find.as_str(), 300.0), (health.as_str(), 9_999.0)];
        let with = |code: &str| {
            let refused = turned_away(code);
            let mut pairs = requests.to_vec();
            pairs.push((refused.as_str(), 6.0));
            share(&pairs)
        };
        assert_eq!(with("write_backpressure"), Some(0.06));
        assert_eq!(with("recall_backpressure"), Some(0.02));
        assert_eq!(with("body_backpressure"), Some(0.015));
        for of_callers in ["rate_limited_write", "tenant_rate_limited_recall", "key_lookups_busy"] {
            assert_eq!(with(of_callers), Some(0.0), "{of_callers}");
        }
        // The worse one counts.
        let (wrote, recalled) = (turned_away("write_backpressure"), turned_away("recall_backpressure"));
        let mut both = requests.to_vec();
        both.extend([(wrote.as_str(), 1.0), (recalled.as_str(), 6.0)]);
        assert_eq!(share(&both), Some(0.02));
        assert_eq!(share(&[(health.as_str(), 100.0)]), None, "no request could have been refused");
    }

    #[test]
    fn a_metric_the_server_does_not_show_is_unknown_and_not_zero() {
        let write = asked("write");
        let window = |declared: &[&str]| Window {
            before: of_server(&[(write.as_str(), 1.0)], declared),
            after: of_server(&[(write.as_str(), 101.0)], declared),
        };
        let values = |window: &Window| (refused(window).value, queue_wait(window).value);
        assert_eq!(values(&window(&[REFUSED, WAITS])), (Some(0.0), Some(0.0)));
        assert_eq!(values(&window(&[WAITS])), (None, Some(0.0)));
        assert_eq!(values(&window(&[REFUSED])), (Some(0.0), None));
        assert!(refused(&window(&[])).evidence.contains(REFUSED) && queue_wait(&window(&[])).evidence.contains(WAITS));
    }

    /// What passes a gate is what may be refused by it, as the interface says.
    #[test]
    fn every_route_of_a_gate_is_counted_by_it() {
        let document = aionis_api::document();
        for gate in &GATES {
            let mut passing: Vec<&str> = aionis_api::ROUTES
                .iter()
                .filter(|route| {
                    let operation = &document["paths"][route.path][route.method.to_lowercase()];
                    operation["responses"].to_string().contains(gate.code)
                })
                .map(|route| route.name)
                .collect();
            let mut counted = gate.routes.to_vec();
            passing.sort_unstable();
            counted.sort_unstable();
            assert_eq!(counted, passing, "{}", gate.code);
        }
    }

    #[test]
    fn a_percentile_at_a_threshold_is_not_guessed_beyond_it() {
        let write =
            |le: &str| format!("aionis_http_request_seconds_bucket{{route=\"write\",class=\"2xx\",le=\"{le}\"}}");
        // 260 ms each: beyond 200, and within 300.
        let counts = [("0.2", 0.0), ("0.25", 0.0), ("0.3", 100.0), ("0.5", 100.0), ("+Inf", 100.0)];
        let series: Vec<(String, f64)> = counts.iter().map(|(le, count)| (write(le), *count)).collect();
        let pairs: Vec<(&str, f64)> = series.iter().map(|(series, count)| (series.as_str(), *count)).collect();
        let window = Window { before: reading(&[("x", 1.0)]), after: reading(&pairs) };
        let p95 = request_p95(&window, WRITE).value.unwrap();
        assert!((250.0..=300.0).contains(&p95), "{p95}");
    }
}
