//! What handlers share.

use std::{sync::Arc, time::Duration};

use aionis_engine::{Engine, admission::Limits};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::{auth::Auth, body_budget::BodyBudget, browser::AllowedHosts, client::TrustedProxies, health::HealthState};

/// Makes a span continue the trace that headers name.
pub type ContinueTrace = fn(&tracing::Span, &axum::http::HeaderMap);

/// Settings of the interface.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Tenant of requests that name none (`MEMORY_TENANT_ID`).
    pub default_tenant: String,
    /// Scope of requests that name none (`MEMORY_SCOPE`).
    pub default_scope: String,
    /// Longest body in bytes.
    pub body_max_bytes: usize,
    /// Longest pause between two pieces of a body.
    pub body_pause_max: Duration,
    /// Longest time a request may take.
    pub request_timeout: Duration,
    /// Longest `max_wait_ms` a recall may ask for.
    pub max_wait_limit: Duration,
    /// Who is recognised, and how.
    pub auth: Auth,
    /// Origins that browsers may call from.
    pub cors: CorsOrigins,
    /// Hosts that requests from this machine may name besides it, where nobody is authenticated (`AIONIS_ALLOWED_HOSTS`).
    pub allowed_hosts: AllowedHosts,
    /// Token that allows debugging embeddings (`ADMIN_TOKEN`).
    pub admin_token: Option<String>,
    /// Time from which on a request is logged as slow, with its stages; none for never.
    pub slow_request: Option<Duration>,
    /// Makes the span of a request continue the caller's trace.
    pub continue_trace: Option<ContinueTrace>,
    /// Whether loopback callers may debug embeddings when there is no token (not in production).
    pub loopback_may_debug: bool,
    /// Proxies that say truly whom they ask for (`AIONIS_TRUSTED_PROXIES`).
    pub trusted_proxies: TrustedProxies,
    /// Whether callers on this machine spend no tokens of their address (`RATE_LIMIT_BYPASS_LOOPBACK`).
    pub bypass_loopback: bool,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            default_tenant: "default".to_owned(),
            default_scope: "default".to_owned(),
            body_max_bytes: 5 * 1024 * 1024,
            body_pause_max: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_wait_limit: Duration::from_millis(crate::limits::WAIT_MS_MAX),
            auth: Auth::default(),
            cors: CorsOrigins::Listed(Vec::new()),
            allowed_hosts: AllowedHosts::default(),
            admin_token: None,
            loopback_may_debug: true,
            slow_request: Some(Duration::from_secs(1)),
            continue_trace: None,
            trusted_proxies: TrustedProxies::default(),
            bypass_loopback: true,
        }
    }
}

/// Which origins browsers may call from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// All.
    Any,
    /// These.
    Listed(Vec<String>),
}

impl CorsOrigins {
    /// Reads `CORS_ALLOW_ORIGINS`: a comma list; `*` in it means all.
    pub fn parse(list: &str) -> Self {
        let origins: Vec<String> =
            list.split(',').map(str::trim).filter(|o| !o.is_empty()).map(str::to_owned).collect();
        if origins.iter().any(|origin| origin == "*") { Self::Any } else { Self::Listed(origins) }
    }
}

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    /// The use cases.
    pub engine: Arc<Engine>,
    /// How much of bodies may be in memory at once.
    pub bodies: Arc<BodyBudget>,
    /// How often addresses and tenants may ask.
    pub limits: Arc<Limits>,
    /// Settings.
    pub settings: Arc<ApiSettings>,
    /// What readiness reports.
    pub health: Arc<HealthState>,
    /// Renders metrics, when a recorder is installed.
    pub metrics: Option<PrometheusHandle>,
}
