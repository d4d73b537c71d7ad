//! How often an address or a tenant may ask: token buckets per process (runtime specification 4.3).

mod buckets;

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use aionis_core::{
    admission::{Rate, Taken},
    clock::Clock,
    error::{DomainError, ErrorKind},
};
use serde_json::json;

use self::buckets::Buckets;

/// What tokens are spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Everything that reads.
    Recall,
    /// Everything that changes something.
    Write,
    /// Looking at embeddings.
    DebugEmbeddings,
    /// Embedding a question.
    RecallTextEmbed,
}

/// A rate for each category.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Everything that reads.
    pub recall: Rate,
    /// Everything that changes something.
    pub write: Rate,
    /// Looking at embeddings.
    pub debug_embeddings: Rate,
    /// Embedding a question.
    pub recall_text_embed: Rate,
}

/// Who may ask how often.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LimitSettings {
    /// Rates per address; none for no limit.
    pub addresses: Option<Rates>,
    /// Rates per tenant; none for no limit.
    pub tenants: Option<Rates>,
}

/// Addresses and tenants that are told apart at once, per category; further ones share buckets until there is room.
pub const KEYS_MAX: usize = 65_536;

/// The buckets of this process.
pub struct Limits {
    addresses: Option<Table<IpAddr>>,
    tenants: Option<Table<Arc<str>>>,
}

struct Table<K> {
    recall: Limiter<K>,
    write: Limiter<K>,
    debug_embeddings: Limiter<K>,
    recall_text_embed: Limiter<K>,
}

struct Limiter<K> {
    code: &'static str,
    buckets: Buckets<K>,
    clock: Arc<dyn Clock>,
}

/// A token that is on its way; goes back when its request does not wait for it.
struct Awaited<'a, K: Eq + Hash + Clone> {
    limiter: &'a Limiter<K>,
    key: Option<&'a K>,
}

impl<K: Eq + Hash + Clone> Drop for Awaited<'_, K> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.limiter.buckets.give_back(key, self.limiter.clock.monotonic());
        }
    }
}

impl Limits {
    /// Full buckets, at most `keys_max` per category and kind of key.
    pub fn new(settings: &LimitSettings, keys_max: usize, clock: &Arc<dyn Clock>) -> Self {
        let addresses = settings.addresses.map(|rates| Table::new(&rates, ADDRESS_CODES, keys_max, clock));
        let tenants = settings.tenants.map(|rates| Table::new(&rates, TENANT_CODES, keys_max, clock));
        Self { addresses, tenants }
    }

    /// Whether anybody is limited at all.
    pub const fn is_on(&self) -> bool {
        self.addresses.is_some() || self.tenants.is_some()
    }

    /// Spends a token of an address, waiting for it if that is soon. Returns how long the request has waited by now, of
    /// which it had waited `waited` before. Addresses of IPv6 count by their /64 network.
    ///
    /// # Errors
    /// `rate_limited_<category>`.
    pub async fn address(
        &self,
        category: Category,
        address: IpAddr,
        waited: Duration,
    ) -> Result<Duration, DomainError> {
        let Some(table) = &self.addresses else { return Ok(waited) };
        let limiter = table.of(category);
        limiter
            .take(&network(address), waited)
            .await
            .map_err(|wait| limiter.refusal("this address", wait, waited, None))
    }

    /// Spends a token of a tenant; otherwise as [`Limits::address`].
    ///
    /// # Errors
    /// `tenant_rate_limited_<category>`.
    pub async fn tenant(&self, category: Category, tenant: &str, waited: Duration) -> Result<Duration, DomainError> {
        let Some(table) = &self.tenants else { return Ok(waited) };
        let limiter = table.of(category);
        let taken = limiter.take(&Arc::from(tenant), waited).await;
        taken.map_err(|wait| limiter.refusal("this tenant", wait, waited, Some(tenant)))
    }
}

/// What an address counts as: a host of IPv6 has a whole /64 to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

type Codes = [&'static str; 4];

const ADDRESS_CODES: Codes =
    ["rate_limited_recall", "rate_limited_write", "rate_limited_debug_embeddings", "rate_limited_recall_text_embed"];
const TENANT_CODES: Codes = [
    "tenant_rate_limited_recall",
    "tenant_rate_limited_write",
    "tenant_rate_limited_debug_embeddings",
    "tenant_rate_limited_recall_text_embed",
];

impl<K: Eq + Hash + Clone> Table<K> {
    fn new(rates: &Rates, codes: Codes, keys_max: usize, clock: &Arc<dyn Clock>) -> Self {
        let limiter = |code, rate| Limiter { code, buckets: Buckets::new(rate, keys_max), clock: Arc::clone(clock) };
        Self {
            recall: limiter(codes[0], rates.recall),
            write: limiter(codes[1], rates.write),
            debug_embeddings: limiter(codes[2], rates.debug_embeddings),
            recall_text_embed: limiter(codes[3], rates.recall_text_embed),
        }
    }

    const fn of(&self, category: Category) -> &Limiter<K> {
        match category {
            Category::Recall => &self.recall,
            Category::Write => &self.write,
            Category::DebugEmbeddings => &self.debug_embeddings,
            Category::RecallTextEmbed => &self.recall_text_embed,
        }
    }
}

impl<K: Eq + Hash + Clone> Limiter<K> {
    /// The whole wait of the request, or when to come back.
    async fn take(&self, key: &K, waited: Duration) -> Result<Duration, Duration> {
        match self.buckets.take(key, self.clock.monotonic()) {
            Taken::Now => Ok(waited),
            Taken::After(wait) => {
                let mut awaited = Awaited { limiter: self, key: Some(key) };
                tokio::time::sleep(wait).await;
                awaited.key = None;
                Ok(waited + wait)
            }
            Taken::Refused(wait) => Err(wait),
        }
    }

    fn refusal(&self, whose: &str, wait: Duration, waited: Duration, tenant: Option<&str>) -> DomainError {
        let retry_after_ms = wait.as_micros().div_ceil(1_000);
        let mut details = json!({ "retry_after_ms": retry_after_ms, "waited_ms": waited.as_millis() });
        if let Some(tenant) = tenant {
            details["tenant_id"] = json!(tenant);
        }
        let message = format!("{whose} asks too often; retry in {retry_after_ms} ms");
        let error = DomainError::new(ErrorKind::TooManyRequests, self.code, message);
        refused(error.with_details(details).with_retry_after(wait))
    }
}

/// Counts a refusal on its way out.
pub(crate) fn refused(error: DomainError) -> DomainError {
    metrics::counter!("aionis_admission_refused_total", "code" => error.code).increment(1);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
    }
}
