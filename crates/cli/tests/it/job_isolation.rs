//! Jobs in one tenant's scope: nothing of another tenant changes, who has the same memories under the same names.

use crate::{
    job_kills::{CASES, Home},
    support::program::run,
};

const TENANTS: [&str; 2] = ["acme", "globex"];

/// Every row of a tenant in every table that names a scope.
fn rows_of(home: &Home, tenant: &str) -> Vec<String> {
    let of = format!("WHERE scope_key LIKE '{tenant}/%' ORDER BY 1");
    let tables = match home.postgres {
        Some(_) => {
            "SELECT table_name::text FROM information_schema.columns \
             WHERE table_schema = 'public' AND column_name = 'scope_key' ORDER BY 1"
        }
        None => {
            "SELECT t.name FROM sqlite_master t JOIN pragma_table_info(t.name) c \
             WHERE t.type = 'table' AND c.name = 'scope_key' ORDER BY 1"
        }
    };
    let rows = |table: &String| match home.postgres {
        Some(_) => home.lines(&format!("SELECT '{table} ' || row_to_json(t)::text FROM {table} t {of}")),
        None => {
            let columns = "group_concat('quote(' || name || ')', ' || '' '' || ')";
            let columns = home.lines(&format!("SELECT {columns} FROM pragma_table_info('{table}')")).remove(0);
            home.lines(&format!("SELECT '{table} ' || {columns} FROM {table} {of}"))
        }
    };
    home.lines(tables).iter().flat_map(rows).collect()
}

fn each_job_in_one_tenant_leaves_another_alone(on_postgres: bool) {
    let home = Home::new(on_postgres);
    for case in CASES.iter().filter(|case| case.scoped) {
        let scopes = TENANTS.map(|tenant| format!("{tenant}/{}", case.job));
        home.fill_scopes(case, scopes.iter().map(String::as_str));
        for (own, other) in [(0, 1), (1, 0)] {
            let flags = (case.flags)(&home, &scopes[own]);
            let before = TENANTS.map(|tenant| rows_of(&home, tenant));
            home.finish(case, &scopes[own], &flags);
            let after = TENANTS.map(|tenant| rows_of(&home, tenant));
            assert!(before[other].len() > 1_000, "{}: there is something of the other", case.job);
            assert_eq!(before[other], after[other], "{} in {}", case.job, scopes[own]);
            assert_ne!(before[own], after[own], "{}: it did something, or at least was recorded", case.job);
        }
    }
    // One that is asked for everywhere is noticed: the rows that are compared would tell.
    let before = TENANTS.map(|tenant| rows_of(&home, tenant));
    run(&mut home.command(&["job", "salience-decay", "--all"])).exits(0);
    let after = TENANTS.map(|tenant| rows_of(&home, tenant));
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "each tenant's rows changed");
}

#[test]
fn each_job_in_one_tenant_leaves_another_alone_on_the_embedded_engine() {
    each_job_in_one_tenant_leaves_another_alone(false);
}

#[test]
fn each_job_in_one_tenant_leaves_another_alone_on_postgres() {
    each_job_in_one_tenant_leaves_another_alone(true);
}
