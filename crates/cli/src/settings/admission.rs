//! How much is done at once, and how often callers may ask.

use std::time::Duration;

use aionis_api::TrustedProxies;
use aionis_core::admission::Rate;
use aionis_engine::{
    GateSettings,
    admission::{LimitSettings, Rates},
};
use clap::Args;

use super::{StorageSettings, boolean};
use crate::failure::Failure;

/// Recalls at once where nothing is set and the database allows it.
const RECALL_MAX_INFLIGHT: u32 = 256;

/// Sizes of the gates.
#[derive(Clone, Debug, Args)]
pub(crate) struct GateArgs {
    /// Recalls at once [default: 256; on PostgreSQL not more than DB_POOL_MAX].
    #[arg(long, env = "API_RECALL_MAX_INFLIGHT", value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) api_recall_max_inflight: Option<u32>,
    /// Recalls that may wait.
    #[arg(long, env = "API_RECALL_QUEUE_MAX", default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(0..=200_000))]
    pub(crate) api_recall_queue_max: u32,
    /// How long one may wait, in ms.
    #[arg(long, env = "API_RECALL_QUEUE_TIMEOUT_MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) api_recall_queue_timeout_ms: u64,
    /// Writes at once.
    #[arg(long, env = "API_WRITE_MAX_INFLIGHT", default_value_t = 96, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) api_write_max_inflight: u32,
    /// Writes that may wait.
    #[arg(long, env = "API_WRITE_QUEUE_MAX", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(0..=200_000))]
    pub(crate) api_write_queue_max: u32,
    /// How long one may wait, in ms.
    #[arg(long, env = "API_WRITE_QUEUE_TIMEOUT_MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) api_write_queue_timeout_ms: u64,
    /// Recalls that may wait for a commit (min_commit); of one tenant at most half.
    #[arg(long, env = "API_COMMIT_WAITERS_MAX", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) api_commit_waiters_max: u32,
}

impl GateArgs {
    /// Connections that recalls can have; none for the embedded engine, which reads with few and waits for none.
    fn pool(storage: &StorageSettings) -> Option<u32> {
        (!storage.database_url.0.is_empty()).then_some(storage.db_pool_max)
    }

    /// Recalls at once: a recall at work holds connections, so that more of them than the pool has would only wait there.
    pub(crate) fn recall_max_inflight(&self, storage: &StorageSettings) -> u32 {
        let pool = Self::pool(storage).unwrap_or(u32::MAX);
        self.api_recall_max_inflight.unwrap_or(RECALL_MAX_INFLIGHT.min(pool))
    }

    /// What is wrong with the gates, in one line.
    pub(crate) fn problem(&self, storage: &StorageSettings) -> Option<String> {
        let (pool, asked) = (Self::pool(storage)?, self.api_recall_max_inflight?);
        (asked > pool).then(|| {
            format!(
                "API_RECALL_MAX_INFLIGHT={asked} is more than DB_POOL_MAX={pool} connections can serve; lower the one or \
                 raise the other"
            )
        })
    }

    pub(crate) fn recall_gate(&self, storage: &StorageSettings) -> GateSettings {
        GateSettings {
            max_inflight: self.recall_max_inflight(storage) as usize,
            max_queue: self.api_recall_queue_max as usize,
            queue_timeout: Duration::from_millis(self.api_recall_queue_timeout_ms),
        }
    }

    /// Not bound to the pool: writes of a scope share a transaction and its connection, and hold none while they wait.
    pub(crate) const fn write_gate(&self) -> GateSettings {
        GateSettings {
            max_inflight: self.api_write_max_inflight as usize,
            max_queue: self.api_write_queue_max as usize,
            queue_timeout: Duration::from_millis(self.api_write_queue_timeout_ms),
        }
    }
}

/// How often callers may ask.
#[derive(Clone, Debug, Args)]
pub(crate) struct LimitArgs {
    /// Limit how often an address may ask [default: true with APP_ENV=prod, else false].
    #[arg(long, env = "RATE_LIMIT_ENABLED", value_parser = boolean)]
    pub(crate) rate_limit_enabled: Option<bool>,
    /// Do not limit callers on this machine [default: false with APP_ENV=prod, else true].
    #[arg(long, env = "RATE_LIMIT_BYPASS_LOOPBACK", value_parser = boolean)]
    pub(crate) rate_limit_bypass_loopback: Option<bool>,
    /// Limit how often a tenant may ask [default: true with APP_ENV=prod, else false].
    #[arg(long, env = "TENANT_QUOTA_ENABLED", value_parser = boolean)]
    pub(crate) tenant_quota_enabled: Option<bool>,
    /// Proxies that say truly whom they ask for, as a comma list of networks such as 10.0.0.0/8.
    #[arg(long, env = "AIONIS_TRUSTED_PROXIES", default_value = "", hide_default_value = true, value_parser = proxies)]
    pub(crate) aionis_trusted_proxies: String,
    /// Reading requests of an address per second.
    #[arg(long, env = "RECALL_RATE_LIMIT_RPS", default_value_t = 200.0, value_parser = per_second)]
    pub(crate) recall_rate_limit_rps: f64,
    /// Reading requests of an address at once.
    #[arg(long, env = "RECALL_RATE_LIMIT_BURST", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) recall_rate_limit_burst: u32,
    /// Changing requests of an address per second.
    #[arg(long, env = "WRITE_RATE_LIMIT_RPS", default_value_t = 100.0, value_parser = per_second)]
    pub(crate) write_rate_limit_rps: f64,
    /// Changing requests of an address at once.
    #[arg(long, env = "WRITE_RATE_LIMIT_BURST", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) write_rate_limit_burst: u32,
    /// How long one waits rather than being refused, in ms.
    #[arg(long, env = "WRITE_RATE_LIMIT_MAX_WAIT_MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(0..=5_000))]
    pub(crate) write_rate_limit_max_wait_ms: u64,
    /// Questions of an address embedded per second.
    #[arg(long, env = "RECALL_TEXT_EMBED_RATE_LIMIT_RPS", default_value_t = 100.0, value_parser = per_second)]
    pub(crate) recall_text_embed_rate_limit_rps: f64,
    /// Questions of an address embedded at once.
    #[arg(long, env = "RECALL_TEXT_EMBED_RATE_LIMIT_BURST", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) recall_text_embed_rate_limit_burst: u32,
    /// How long one waits rather than being refused, in ms.
    #[arg(long, env = "RECALL_TEXT_EMBED_RATE_LIMIT_MAX_WAIT_MS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(0..=5_000))]
    pub(crate) recall_text_embed_rate_limit_max_wait_ms: u64,
    /// Recalls of an address that show embeddings, per second.
    #[arg(long, env = "DEBUG_EMBED_RATE_LIMIT_RPS", default_value_t = 0.2, value_parser = per_second)]
    pub(crate) debug_embed_rate_limit_rps: f64,
    /// Recalls of an address that show embeddings, at once.
    #[arg(long, env = "DEBUG_EMBED_RATE_LIMIT_BURST", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) debug_embed_rate_limit_burst: u32,
    /// Reading requests of a tenant per second.
    #[arg(long, env = "TENANT_RECALL_RATE_LIMIT_RPS", default_value_t = 500.0, value_parser = per_second)]
    pub(crate) tenant_recall_rate_limit_rps: f64,
    /// Reading requests of a tenant at once.
    #[arg(long, env = "TENANT_RECALL_RATE_LIMIT_BURST", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tenant_recall_rate_limit_burst: u32,
    /// Changing requests of a tenant per second.
    #[arg(long, env = "TENANT_WRITE_RATE_LIMIT_RPS", default_value_t = 200.0, value_parser = per_second)]
    pub(crate) tenant_write_rate_limit_rps: f64,
    /// Changing requests of a tenant at once.
    #[arg(long, env = "TENANT_WRITE_RATE_LIMIT_BURST", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tenant_write_rate_limit_burst: u32,
    /// How long one waits rather than being refused, in ms.
    #[arg(long, env = "TENANT_WRITE_RATE_LIMIT_MAX_WAIT_MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(0..=5_000))]
    pub(crate) tenant_write_rate_limit_max_wait_ms: u64,
    /// Questions of a tenant embedded per second.
    #[arg(long, env = "TENANT_RECALL_TEXT_EMBED_RATE_LIMIT_RPS", default_value_t = 250.0, value_parser = per_second)]
    pub(crate) tenant_recall_text_embed_rate_limit_rps: f64,
    /// Questions of a tenant embedded at once.
    #[arg(long, env = "TENANT_RECALL_TEXT_EMBED_RATE_LIMIT_BURST", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tenant_recall_text_embed_rate_limit_burst: u32,
    /// How long one waits rather than being refused, in ms.
    #[arg(long, env = "TENANT_RECALL_TEXT_EMBED_RATE_LIMIT_MAX_WAIT_MS", default_value_t = 800, value_parser = clap::value_parser!(u64).range(0..=5_000))]
    pub(crate) tenant_recall_text_embed_rate_limit_max_wait_ms: u64,
    /// Recalls of a tenant that show embeddings, per second.
    #[arg(long, env = "TENANT_DEBUG_EMBED_RATE_LIMIT_RPS", default_value_t = 1.0, value_parser = per_second)]
    pub(crate) tenant_debug_embed_rate_limit_rps: f64,
    /// Recalls of a tenant that show embeddings, at once.
    #[arg(long, env = "TENANT_DEBUG_EMBED_RATE_LIMIT_BURST", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tenant_debug_embed_rate_limit_burst: u32,
}

/// A number of requests per second; not a number and nothing at all are no rates.
fn per_second(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.001..=1_000_000.0).contains(number));
    number.ok_or_else(|| "must be a number of requests per second between 0.001 and 1000000".to_owned())
}

fn proxies(text: &str) -> Result<String, String> {
    TrustedProxies::parse(text).map(|_| text.to_owned())
}

const fn rate(per_second: f64, burst: u32, wait_max_ms: u64) -> Rate {
    Rate { per_second, burst, wait_max: Duration::from_millis(wait_max_ms) }
}

impl LimitArgs {
    /// Refuses to be without limits in production.
    pub(crate) fn check(&self, production: bool) -> Result<(), Failure> {
        let refused = [
            ("RATE_LIMIT_ENABLED", self.rate_limit_enabled, false),
            ("TENANT_QUOTA_ENABLED", self.tenant_quota_enabled, false),
            ("RATE_LIMIT_BYPASS_LOOPBACK", self.rate_limit_bypass_loopback, true),
        ];
        match refused.into_iter().find(|(_, set, unsafe_value)| production && *set == Some(*unsafe_value)) {
            Some((name, _, value)) => {
                Err(Failure::new(format!("{name}={value} is refused in production; set it to {} or unset it", !value)))
            }
            None => Ok(()),
        }
    }

    /// Whether callers on this machine spend no tokens of their address.
    pub(crate) fn bypass_loopback(&self, production: bool) -> bool {
        self.rate_limit_bypass_loopback.unwrap_or(!production)
    }

    /// Whose word about addresses counts.
    pub(crate) fn trusted_proxies(&self) -> Result<TrustedProxies, Failure> {
        TrustedProxies::parse(&self.aionis_trusted_proxies)
            .map_err(|e| Failure::new(format!("AIONIS_TRUSTED_PROXIES: {e}")))
    }

    /// The limits that hold.
    pub(crate) fn limits(&self, production: bool) -> LimitSettings {
        LimitSettings {
            addresses: self.rate_limit_enabled.unwrap_or(production).then(|| self.address_rates()),
            tenants: self.tenant_quota_enabled.unwrap_or(production).then(|| self.tenant_rates()),
        }
    }

    const fn address_rates(&self) -> Rates {
        Rates {
            recall: rate(self.recall_rate_limit_rps, self.recall_rate_limit_burst, 0),
            write: rate(self.write_rate_limit_rps, self.write_rate_limit_burst, self.write_rate_limit_max_wait_ms),
            debug_embeddings: rate(self.debug_embed_rate_limit_rps, self.debug_embed_rate_limit_burst, 0),
            recall_text_embed: rate(
                self.recall_text_embed_rate_limit_rps,
                self.recall_text_embed_rate_limit_burst,
                self.recall_text_embed_rate_limit_max_wait_ms,
            ),
        }
    }

    const fn tenant_rates(&self) -> Rates {
        Rates {
            recall: rate(self.tenant_recall_rate_limit_rps, self.tenant_recall_rate_limit_burst, 0),
            write: rate(
                self.tenant_write_rate_limit_rps,
                self.tenant_write_rate_limit_burst,
                self.tenant_write_rate_limit_max_wait_ms,
            ),
            debug_embeddings: rate(self.tenant_debug_embed_rate_limit_rps, self.tenant_debug_embed_rate_limit_burst, 0),
            recall_text_embed: rate(
                self.tenant_recall_text_embed_rate_limit_rps,
                self.tenant_recall_text_embed_rate_limit_burst,
                self.tenant_recall_text_embed_rate_limit_max_wait_ms,
            ),
        }
    }
}
