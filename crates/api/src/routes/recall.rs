//! `POST /v1/memory/recall` and `/v1/memory/recall_text`.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    held,
    recall::RecallEndpoint,
};
use aionis_engine::{
    admission::Category,
    recall::{RecallAnswer, RecallRequest},
    stages::{self, Work},
};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};

use super::within;
use crate::{
    admission::Asking,
    auth::{Caller, same_secret},
    body,
    dto::recall::{ProfileChoice, RecallResponse, parse_recall},
    error::ApiError,
    middleware::tenant_header,
    state::AppState,
};

const ADMIN_TOKEN: HeaderName = HeaderName::from_static("x-admin-token");
/// Tells which profile an answer was made with.
const PROFILE: HeaderName = HeaderName::from_static("x-aionis-recall-profile");
/// Largest answer of debugged embeddings, in bytes.
const DEBUG_MAX_BYTES: usize = 65_536;

pub(crate) async fn recall(state: State<AppState>, request: Request) -> Result<Response, ApiError> {
    answer(state, request, RecallEndpoint::Recall).await
}

pub(crate) async fn recall_text(state: State<AppState>, request: Request) -> Result<Response, ApiError> {
    answer(state, request, RecallEndpoint::RecallText).await
}

async fn answer(
    State(state): State<AppState>,
    request: Request,
    endpoint: RecallEndpoint,
) -> Result<Response, ApiError> {
    let caller = Caller::of(request.extensions())?;
    let (parts, body) = request.into_parts();
    let (response, choice) =
        within(state.settings.request_timeout, run(&state, &caller, &parts.headers, body, endpoint)).await?;
    let mut response = Json(response).into_response();
    response.headers_mut().insert(PROFILE, profile_header(&choice)?);
    Ok(response)
}

async fn run(
    state: &AppState,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    endpoint: RecallEndpoint,
) -> Result<(RecallResponse, ProfileChoice), DomainError> {
    let (value, bytes) = body::read(state, caller, headers, body).await?;
    let mut asking = Asking::settle(state, caller, headers, &value).await?;
    let (mut request, shown) = stages::timed_now(Work::Recall, "parse", || {
        parse_recall(&value, endpoint, tenant_header(headers), &state.settings)
    })?;
    drop(value);
    pay_extra(state, caller, headers, &request, &mut asking).await?;
    // Before the gate: who waits for a commit that does not come holds no place.
    stages::timed(Work::Recall, "commit", state.engine.wait_for_commit(&request)).await?;
    request.min_commit = None;
    let permit = stages::timed(Work::Recall, "gate", state.engine.recall_gate().enter(asking.tenant.as_str())).await?;
    let waited = permit.waited;
    let choice = choose(state, &request, waited);
    request.profile = Some(choice.adapted.profile);
    let (scope, pinned_limit, started) = (request.scope.clone(), request.knobs.limit, state.engine.clock().now());
    let answer = held::holding(Arc::new((permit, bytes)), state.engine.recall(request)).await?;
    let now = state.engine.clock().now();
    check_size(&answer)?;
    let told = Told { endpoint, choice, pinned_limit, waited, started, now };
    told.log(scope.scope(), scope.tenant(), &answer);
    Ok((RecallResponse::new(&scope, answer, choice, shown, now), choice))
}

/// Takes the tokens of what a recall does beside recalling: showing embeddings, to those who may see them, and embedding a
/// question. Nothing is held while it waits for them.
async fn pay_extra(
    state: &AppState,
    caller: &Caller,
    headers: &HeaderMap,
    request: &RecallRequest,
    asking: &mut Asking,
) -> Result<(), DomainError> {
    let debugs = request.include_embeddings && request.return_debug;
    if debugs && !may_debug(state, caller, headers) {
        return Err(DomainError::new(
            ErrorKind::Invalid,
            "debug_embeddings_not_allowed",
            "include_embeddings needs the role admin, or the admin token in x-admin-token",
        ));
    }
    state.engine.check_recall(request)?;
    if debugs {
        asking.spend(state, Category::DebugEmbeddings).await?;
    }
    // The question is cleaned for this once more, which nobody has to pay for where there are no limits.
    if state.limits.is_on() && state.engine.embeds(request) {
        asking.spend(state, Category::RecallTextEmbed).await?;
    }
    Ok(())
}

/// The profile of a recall that has been admitted: that of the policy, or a cheaper one when it waited long.
fn choose(state: &AppState, request: &RecallRequest, waited: Duration) -> ProfileChoice {
    let resolved = state.engine.profile_of(request);
    let adapted = state.engine.settings().adaptive.decide(resolved.profile, request.knobs.any(), waited);
    let (profile, source) = (adapted.profile.as_str(), resolved.source.as_str());
    metrics::counter!("aionis_recall_profile_total", "profile" => profile, "source" => source).increment(1);
    if adapted.applied() {
        let from = resolved.profile.as_str();
        metrics::counter!("aionis_recall_downgraded_total", "from" => from, "to" => profile).increment(1);
    }
    ProfileChoice { resolved, adapted }
}

fn profile_header(choice: &ProfileChoice) -> Result<HeaderValue, DomainError> {
    let (profile, source) = (choice.adapted.profile.as_str(), choice.resolved.source.as_str());
    let downgraded = if choice.adapted.applied() { "; downgraded" } else { "" };
    HeaderValue::from_str(&format!("{profile}; source={source}{downgraded}"))
        .map_err(|e| DomainError::internal(format!("a profile that fits no header: {e}")))
}

fn check_size(answer: &RecallAnswer) -> Result<(), DomainError> {
    let Some(embeddings) = &answer.debug_embeddings else { return Ok(()) };
    if serde_json::to_vec(embeddings).map_or(0, |json| json.len()) <= DEBUG_MAX_BYTES {
        return Ok(());
    }
    Err(DomainError::new(
        ErrorKind::Invalid,
        "debug_embeddings_too_large",
        "the embeddings to show are larger than 65536 bytes; lower limit",
    ))
}

/// What is told about a recall that was answered.
struct Told {
    endpoint: RecallEndpoint,
    choice: ProfileChoice,
    pinned_limit: Option<usize>,
    waited: Duration,
    started: Timestamp,
    now: Timestamp,
}

impl Told {
    fn log(&self, scope: &str, tenant_id: &str, answer: &RecallAnswer) {
        let (endpoint, took_us) = (self.endpoint.as_str(), self.now.micros_since(self.started));
        metrics::histogram!("aionis_recall_seconds", "endpoint" => endpoint).record(Duration::from_micros(took_us));
        let ProfileChoice { resolved, adapted } = self.choice;
        tracing::info!(
            scope, tenant_id, limit = self.pinned_limit.unwrap_or(adapted.profile.knobs().limit),
            seeds = answer.seeds.len(), nodes = answer.nodes.len(), edges = answer.edges.len(),
            profile = adapted.profile.as_str(), profile_source = resolved.source.as_str(),
            adaptive_profile_applied = adapted.applied(), adaptive_profile_reason = adapted.reason.as_str(),
            inflight_wait_ms = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX),
            ms = took_us / 1_000, timings_ms = ?answer.timings, "memory {endpoint}"
        );
    }
}

/// Whether a caller may see embeddings: by the role admin or the admin token; where nobody is authenticated and no token
/// is configured, directly from this machine outside production.
fn may_debug(state: &AppState, caller: &Caller, headers: &HeaderMap) -> bool {
    if caller.is_admin() {
        return true;
    }
    match &state.settings.admin_token {
        Some(token) => headers.get(ADMIN_TOKEN).is_some_and(|given| same_secret(given.as_bytes(), token.as_bytes())),
        None => caller.principal().is_none() && state.settings.loopback_may_debug && caller.client().is_local,
    }
}
