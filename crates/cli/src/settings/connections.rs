//! What connections and bodies may take.

use std::time::Duration;

use aionis_api::{AllowedHosts, ApiSettings};
use clap::Args;

use crate::{failure::Failure, http_server::Bounds};

/// Least budget for bodies: the longest body a request may have, so that each can be read.
const BODIES_MIN_BYTES: u64 = 5 * 1024 * 1024;

/// Bounds of connections and bodies.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// Open connections at once; further ones wait in the system's backlog.
    #[arg(long, env = "API_CONNECTIONS_MAX", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) api_connections_max: u32,
    /// Longest time for the head of a request, and for an idle connection that is kept, in ms.
    #[arg(long, env = "API_HEAD_TIMEOUT_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(crate) api_head_timeout_ms: u64,
    /// Bytes of request bodies in memory at once, of all requests together.
    #[arg(long, env = "API_BODIES_MAX_BYTES", default_value_t = 268_435_456, value_parser = clap::value_parser!(u64).range(BODIES_MIN_BYTES..=1_099_511_627_776))]
    pub(crate) api_bodies_max_bytes: u64,
    /// Hosts that requests may name besides this machine while MEMORY_AUTH_MODE=off, without ports, comma separated.
    #[arg(long, env = "AIONIS_ALLOWED_HOSTS", default_value = "", hide_default_value = true, value_parser = hosts)]
    pub(crate) aionis_allowed_hosts: String,
}

fn hosts(text: &str) -> Result<String, String> {
    AllowedHosts::parse(text).map(|_| text.to_owned())
}

impl ConnectionArgs {
    /// What the server keeps to.
    pub(crate) const fn bounds(&self) -> Bounds {
        Bounds {
            connections_max: self.api_connections_max as usize,
            head_timeout: Duration::from_millis(self.api_head_timeout_ms),
        }
    }

    /// Bytes of bodies in memory at once.
    pub(crate) fn bodies_max_bytes(&self) -> usize {
        usize::try_from(self.api_bodies_max_bytes).unwrap_or(usize::MAX)
    }

    /// Puts what the interface keeps to into its settings.
    pub(crate) fn apply(&self, settings: ApiSettings) -> Result<ApiSettings, Failure> {
        Ok(ApiSettings {
            allowed_hosts: AllowedHosts::parse(&self.aionis_allowed_hosts)
                .map_err(|e| Failure::new(format!("AIONIS_ALLOWED_HOSTS: {e}")))?,
            ..settings
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_budget_holds_the_longest_body() {
        assert_eq!(BODIES_MIN_BYTES, ApiSettings::default().body_max_bytes as u64);
    }
}
