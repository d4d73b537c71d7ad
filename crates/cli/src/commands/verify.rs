//! `aionis verify`: recomputes the chain and every object digest.

use aionis_engine::verify::{Progress, VerifyReport, verify};
use clap::Args;

use crate::{
    failure::{Failure, Verdict},
    output::{self, Bar},
    settings::{StorageSettings, env_file::EnvFileArgs},
    wiring,
};

/// Flags of `aionis verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Only this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Only this scope.
    #[arg(long)]
    scope: Option<String>,
    /// Run the database's own integrity check too.
    #[arg(long)]
    physical: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
}

pub(crate) async fn run(args: VerifyArgs) -> Result<Verdict, Failure> {
    let store = wiring::open_existing(&args.storage).await?;
    let bar = Bar::default();
    let report = verify(&*store, (args.tenant.as_deref(), args.scope.as_deref()), args.physical, &bar).await?;
    bar.clear();
    store.close().await;
    if report.scopes.is_empty() && (args.tenant.is_some() || args.scope.is_some()) {
        return Err(Failure::new("no scope matches --tenant and --scope"));
    }
    if args.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    Ok(Verdict::from(report.ok))
}

fn print(report: &VerifyReport) {
    for scope in &report.scopes {
        let name = format!("{}/{}", scope.tenant_id, scope.scope);
        match &scope.first_break {
            None => output::line(format!(
                "ok     {name}: {} commits, {} objects, {} earlier versions, head {}",
                scope.commits, scope.objects, scope.versions, scope.head_hash
            )),
            Some(found) => {
                let at = found.seq.map(|seq| format!(" at commit {seq}")).unwrap_or_default();
                output::line(format!("BROKEN {name}{at}: {} {}: {}", found.object, found.id, found.problem));
            }
        }
    }
    for line in &report.physical {
        output::line(format!("BROKEN database file: {line}"));
    }
    if let Some(found) = &report.purges.first_break {
        output::line(format!("BROKEN records of purges: {found}"));
    }
    let broken = report.scopes.iter().filter(|scope| !scope.ok).count();
    output::line(format!("{} scope(s) verified, {broken} broken", report.scopes.len()));
}

/// Tells nobody.
pub(crate) struct Quiet;

impl Progress for Quiet {
    fn scope(&self, _: &str, _: u64) {}

    fn advance(&self, _: u64) {}
}

impl Progress for Bar {
    fn scope(&self, scope: &str, total: u64) {
        self.start(total, scope);
    }

    fn advance(&self, steps: u64) {
        self.step(steps);
    }
}
