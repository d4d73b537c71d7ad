//! `POST /v1/memory/find` and `GET /v1/memory/nodes/{id}`.

use aionis_core::{
    canon::Digest,
    error::DomainError,
    ids::{NodeId, ScopeKey},
    model::{EmbeddingStatus, Lane, NodeType, Tier},
    read::{FindFilter, FoundNode},
};
use aionis_engine::{FindRequest, Found, erased_json};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    operate::Asked,
    recall::{NodeDto, Shown, as_count, node_dto, viewer_of},
    schema,
    tenancy::scope_of,
};
use crate::{
    fields::{Fields, Issues, Null, uuid_of},
    limits::{CLIENT_ID_MAX, FIND_NAMES, FIND_PAGE, LABEL_MAX, NEEDLE_MAX, OFFSET, PAGE, SLOTS_PREVIEW_KEYS, URI_MAX},
};

/// The members of a filter, for where they are looked at as a whole.
pub(crate) const FILTER_MEMBERS: &[&str] = &[
    "id",
    "ids",
    "uri",
    "client_id",
    "client_ids",
    "type",
    "types",
    "tier",
    "tiers",
    "memory_lane",
    "owner_agent_id",
    "owner_team_id",
    "producer_agent_id",
    "embedding_status",
    "title_contains",
    "text_contains",
    "slots_contains",
    "created_from",
    "created_before",
    "updated_from",
    "updated_before",
];

/// Reads a filter. What stands in one member and in the list beside it is asked for together.
pub(crate) fn filter(body: &Fields<'_>, scope: &ScopeKey, issues: &mut Issues) -> FindFilter {
    let mut ids: Vec<NodeId> = body.uuids("ids", FIND_NAMES, issues).into_iter().map(NodeId).collect();
    ids.extend(body.uuid("id", issues).map(NodeId));
    ids.extend(uri(body, scope, issues).map(NodeId));
    let mut client_ids = body.texts("client_ids", (FIND_NAMES, CLIENT_ID_MAX), issues);
    client_ids.extend(body.short_text("client_id", CLIENT_ID_MAX, issues));
    let client_ids = client_ids.iter().map(|id| id.trim().to_owned()).collect();
    let mut types = body.choices("types", &NodeType::choices(), NodeType::parse, issues);
    types.extend(body.choice("type", &NodeType::choices(), NodeType::parse, issues));
    let mut tiers = body.choices("tiers", &Tier::choices(), Tier::parse, issues);
    tiers.extend(body.choice("tier", &Tier::choices(), Tier::parse, issues));
    FindFilter {
        ids,
        client_ids,
        types,
        tiers,
        lane: body.choice("memory_lane", &Lane::choices(), Lane::parse, issues),
        owner_agent_id: body.short_text("owner_agent_id", LABEL_MAX, issues),
        owner_team_id: body.short_text("owner_team_id", LABEL_MAX, issues),
        producer_agent_id: body.short_text("producer_agent_id", LABEL_MAX, issues),
        embedding_status: body.choice("embedding_status", &EmbeddingStatus::choices(), EmbeddingStatus::parse, issues),
        title_contains: body.short_text("title_contains", NEEDLE_MAX, issues),
        text_contains: body.short_text("text_contains", NEEDLE_MAX, issues),
        slots_contains: some_members(body, "slots_contains", issues),
        created_from: body.time("created_from", issues),
        created_before: body.time("created_before", issues),
        updated_from: body.time("updated_from", issues),
        updated_before: body.time("updated_before", issues),
    }
}

/// An object with at least one member: an empty one lets everything through.
fn some_members(body: &Fields<'_>, name: &str, issues: &mut Issues) -> Option<Value> {
    let object = body.object(name, issues)?;
    if object.as_object().is_some_and(serde_json::Map::is_empty) {
        issues.add(body.path(name), "must have a member; leave it out to ask for nothing");
        return None;
    }
    Some(object)
}

/// The address of a node: `aionis://<tenant>/<scope>/<type>/<id>`.
fn uri_of(scope: &ScopeKey, node_type: NodeType, id: NodeId) -> String {
    format!("aionis://{}/{node_type}/{id}", scope.as_str())
}

fn uri(body: &Fields<'_>, scope: &ScopeKey, issues: &mut Issues) -> Option<Uuid> {
    let text = body.short_text("uri", URI_MAX, issues)?;
    let parts = || {
        let (place, id) = text.strip_prefix("aionis://")?.rsplit_once('/')?;
        let (key, node_type) = place.rsplit_once('/')?;
        Some((key, NodeType::parse(node_type)?, uuid_of(id)?))
    };
    match parts() {
        Some((key, _, id)) if key == scope.as_str() => Some(id),
        Some(_) => {
            issues.add(body.path("uri"), "names another tenant or scope than the request");
            None
        }
        None => {
            issues.add(body.path("uri"), "must be aionis://<tenant>/<scope>/<type>/<id>, as answers give it");
            None
        }
    }
}

/// Which members of nodes are shown.
fn shown(body: &Fields<'_>, issues: &mut Issues) -> Shown {
    let mut flag = |name| body.flag(name, issues).unwrap_or(false);
    let (meta, slots, slots_preview) = (flag("include_meta"), flag("include_slots"), flag("include_slots_preview"));
    let keys = as_count(body.integer("slots_preview_keys", SLOTS_PREVIEW_KEYS, Null::Refused, issues));
    Shown { meta, slots, slots_preview, slots_preview_keys: keys.unwrap_or(10), debug: false }
}

/// Reads `POST /v1/memory/find`.
pub(crate) fn find_request(body: &Value, asked: &Asked<'_>) -> Result<(FindRequest, Shown), DomainError> {
    let body = Fields::body(body)?;
    let mut issues = Issues::default();
    let (_, scope) = scope_of(&body, asked.header_tenant, asked.settings, &mut issues)?;
    let request = FindRequest {
        viewer: viewer_of(&body, &mut issues),
        filter: filter(&body, &scope, &mut issues),
        as_of: body.state("as_of", &mut issues),
        cursor: body.short_text("cursor", LABEL_MAX, &mut issues),
        offset: as_count(body.integer("offset", OFFSET, Null::Refused, &mut issues)).unwrap_or(0),
        limit: as_count(body.integer("limit", PAGE, Null::Refused, &mut issues)).unwrap_or(FIND_PAGE),
        scope,
    };
    let shown = shown(&body, &mut issues);
    issues.finish()?;
    Ok((request, shown))
}

/// A node as find and reading one show it.
#[derive(Serialize, ToSchema)]
pub(crate) struct FoundDto {
    uri: String,
    #[schema(required = true)]
    client_id: Option<String>,
    #[schema(schema_with = schema::tier)]
    tier: Tier,
    version: u32,
    #[schema(schema_with = schema::sha256)]
    digest: Digest,
    #[serde(flatten)]
    #[schema(ignore)]
    node: NodeDto,
}

fn found_dto(scope: &ScopeKey, node: &FoundNode, shown: Shown) -> FoundDto {
    FoundDto {
        uri: uri_of(scope, node.row.node_type, node.row.id),
        client_id: node.row.client_id.clone(),
        tier: node.row.tier,
        version: node.version,
        digest: node.digest,
        node: node_dto(&node.row, shown),
    }
}

/// Answer of `POST /v1/memory/find`.
#[derive(Serialize, ToSchema)]
pub(crate) struct FindResponse {
    scope: String,
    tenant_id: String,
    nodes: Vec<FoundDto>,
    #[schema(required = true)]
    next_cursor: Option<String>,
    as_of_commit: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = schema::erased, required = false)]
    erased: Vec<Value>,
}

impl FindResponse {
    pub(crate) fn new(scope: &ScopeKey, found: &Found, shown: Shown) -> Self {
        Self {
            scope: scope.scope().to_owned(),
            tenant_id: scope.tenant().to_owned(),
            nodes: found.nodes.iter().map(|node| found_dto(scope, node, shown)).collect(),
            next_cursor: found.next_cursor.clone(),
            as_of_commit: found.as_of_commit,
            erased: found.erased.iter().map(erased_json).collect(),
        }
    }
}

/// Answer of `GET /v1/memory/nodes/{id}`.
#[derive(Serialize, ToSchema)]
pub(crate) struct NodeResponse {
    scope: String,
    tenant_id: String,
    as_of_commit: u64,
    node: FoundDto,
}

impl NodeResponse {
    pub(crate) fn new(scope: &ScopeKey, node: &FoundNode, as_of_commit: u64) -> Self {
        let shown = Shown { meta: true, slots: true, slots_preview: false, slots_preview_keys: 0, debug: false };
        Self {
            scope: scope.scope().to_owned(),
            tenant_id: scope.tenant().to_owned(),
            as_of_commit,
            node: found_dto(scope, node, shown),
        }
    }
}
