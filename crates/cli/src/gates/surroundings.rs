//! What a run was made with and on: versions and machine.

use aionis_store::Deployment;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Versions of program and database. `schema` is the newest step of the schema.
pub(crate) async fn versions(store: &dyn Deployment, schema: &str) -> Result<Value, Failure> {
    let made_by = store.made_by().await?;
    Ok(json!({
        "aionis": env!("CARGO_PKG_VERSION"),
        "engine": store.engine(),
        "schema": schema,
        "database": made_by.server,
        "pgvector": made_by.vector_extension,
        "embedding_space": { "name": store.space().name, "dim": store.space().dim },
    }))
}

/// The machine the gate runs on; null for what the system does not tell.
pub(crate) fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let memory_kib: Option<u64> = read("/proc/meminfo").as_deref().and_then(memory_total_kib);
    json!({
        "cores": std::thread::available_parallelism().ok().map(std::num::NonZero::get),
        "memory_bytes": memory_kib.map(|kib| kib * 1_024),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "kernel": read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
    })
}

fn memory_total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::memory_total_kib;

    #[test]
    fn memory_is_read_from_its_line() {
        assert_eq!(memory_total_kib("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16_384));
        assert_eq!(memory_total_kib("nothing"), None);
    }
}
