"""Shapes of answers: what each documented member has to be. Members beyond the shape are allowed."""

import re

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SHA256 = re.compile(r"[0-9a-f]{64}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Or:
    """One of several shapes; `None` stands for null, a plain text for itself."""

    def __init__(self, *shapes):
        self.shapes = shapes


class Maybe:
    """A member that may be left out."""

    def __init__(self, shape):
        self.shape = shape


class Wrong(AssertionError):
    """An answer that is not of its shape."""


def check(value, shape, path="data"):
    """Insists that a value has a shape."""
    if isinstance(shape, Or):
        problems = []
        for one in shape.shapes:
            try:
                return check(value, one, path)
            except Wrong as problem:
                problems.append(str(problem))
        raise Wrong(" and ".join(problems))
    if shape is None or isinstance(shape, (str, bool)):
        good = value is shape if not isinstance(shape, str) else value == shape
    elif isinstance(shape, re.Pattern):
        good = isinstance(value, str) and shape.fullmatch(value) is not None
    elif shape is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif shape is int:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    elif isinstance(shape, type):
        good = isinstance(value, shape)
    elif isinstance(shape, list):
        good = isinstance(value, list) and (bool(shape) or not value)
        for number, item in enumerate(value if good else []):
            check(item, shape[0], f"{path}.{number}")
    else:
        good = isinstance(value, dict)
        if good:
            members(value, shape, path)
    if not good:
        raise Wrong(f"{path} is {value!r:.200}, not {shape!r:.200}")


def members(value, shape, path):
    for name, wanted in shape.items():
        if name not in value:
            if isinstance(wanted, Maybe):
                continue
            raise Wrong(f"{path}.{name} is missing in {sorted(value)}")
        check(value[name], wanted.shape if isinstance(wanted, Maybe) else wanted, f"{path}.{name}")


TYPE = Or("event", "entity", "topic", "rule", "evidence", "concept", "procedure", "self_model")
TEXT = Or(str, None)
COMMIT = Or(UUID, None)

WRITE = {
    "tenant_id": str,
    "scope": str,
    "commit_id": UUID,
    "commit_hash": SHA256,
    "nodes": [{"id": UUID, "client_id": Maybe(str), "type": TYPE}],
    "edges": [{"id": UUID, "type": Or("part_of", "related_to", "derived_from"), "src_id": UUID, "dst_id": UUID}],
    "embedding_backfill": Maybe({"enqueued": True, "pending_nodes": int}),
}

NODE = {"id": UUID, "type": TYPE, "title": TEXT, "text_summary": TEXT}
NODE_META = {
    "raw_ref": TEXT,
    "evidence_ref": TEXT,
    "embedding_status": str,
    "embedding_model": TEXT,
    "memory_lane": Or("private", "shared"),
    "producer_agent_id": TEXT,
    "owner_agent_id": TEXT,
    "owner_team_id": TEXT,
    "created_at": TIME,
    "updated_at": TIME,
    "last_activated": Or(TIME, None),
    "salience": float,
    "importance": float,
    "confidence": float,
    "commit_id": UUID,
}
EDGE = {"from_id": UUID, "to_id": UUID, "type": str, "weight": float}

REFERENCES = {"raw_ref": TEXT, "evidence_ref": TEXT}
ITEM = Or(
    {
        "kind": Or("topic", "concept", "entity"),
        "node_id": UUID,
        "title": Maybe(str),
        "summary": Maybe(str),
        "commit_id": COMMIT,
    },
    {"kind": Or("event", "evidence"), "node_id": UUID, "summary": Maybe(str), **REFERENCES, "commit_id": COMMIT},
    {
        "kind": "rule",
        "node_id": UUID,
        "state": Maybe(str),
        "rule_scope": Maybe(str),
        "summary": Maybe(str),
        "if_json": Maybe(dict),
        "then_json": Maybe(dict),
        "exceptions_json": Maybe(list),
        "stats": Maybe({"positive": int, "negative": int}),
        "commit_id": COMMIT,
    },
)

RANK = {"score": float, "evidence_score": float, "priority": float, "weight": float, "specificity": int}
SOURCE = {"rule_node_id": UUID, "state": str, "commit_id": UUID, "touched_paths": [str], "rank": RANK}
CONFLICT_EXPLAIN = {
    "path": str,
    "winner": {"rule_node_id": UUID, **RANK},
    "losers": [{"rule_node_id": UUID, "score": float}],
    "reason": str,
}
TOOL_EXPLAIN = {
    "notes": [str],
    "contributions": [
        {"rule_node_id": UUID, **RANK, "allow_n": int, "deny_n": int, "prefer_n": int, "first_prefer": TEXT}
    ],
    "winners": {"prefer_by_tool": dict, "deny_by_tool": dict},
    "conflicts": [
        {
            "code": Or("allow_intersection", "allow_intersection_empty", "prefer_competing_top_choice"),
            "message": str,
            "details": Or(list, dict),
            "winner_rule_node_id": Or(UUID, None),
        }
    ],
}
CONFLICT = {"path": str, "winner_rule_node_id": UUID}
APPLIED = {
    "policy": {"tool": dict},
    "sources": [SOURCE],
    "conflicts": [CONFLICT],
    "conflict_explain": [CONFLICT_EXPLAIN],
    "tool_explain": TOOL_EXPLAIN,
}
APPLIED_WITH_SHADOW = {
    **APPLIED,
    "shadow_policy": dict,
    "shadow_sources": [SOURCE],
    "shadow_conflicts": [CONFLICT],
    "shadow_conflict_explain": [CONFLICT_EXPLAIN],
    "shadow_tool_explain": TOOL_EXPLAIN,
}
RULE_MATCH = {
    "rule_node_id": UUID,
    "state": Or("active", "shadow"),
    "rule_scope": Or("global", "team", "agent"),
    "target_agent_id": TEXT,
    "target_team_id": TEXT,
    "summary": TEXT,
    "if_json": dict,
    "then_json": dict,
    "exceptions_json": list,
    "stats": {"positive": int, "negative": int},
    "rank": RANK,
    "match_detail": {"condition_paths": [str], "condition_path_count": int},
    "commit_id": UUID,
}
COUNTS = {
    "considered": int,
    "matched": int,
    "skipped_invalid_then": int,
    "invalid_then_sample": [{"rule_node_id": UUID, "state": str, "commit_id": UUID}],
}
VISIBILITY = {
    "agent": {"id": TEXT, "team_id": TEXT},
    "rule_scope": {
        "scanned": int,
        "filtered_by_scope": int,
        "filtered_by_lane": int,
        "filtered_by_condition": int,
        "skipped_invalid_then": int,
        "matched_active": int,
        "matched_shadow": int,
    },
    "lane": {
        "applied": bool,
        "reason": Or("missing_agent_context", "enforced_agent_team", "enforced_agent_only", "enforced_team_only"),
        "legacy_unowned_private_visible": int,
        "legacy_unowned_private_detected": int,
    },
}

RECALL = {
    "scope": str,
    "tenant_id": str,
    "seeds": [{**NODE, "tier": str, "salience": float, "confidence": float, "similarity": float}],
    "subgraph": {"nodes": [NODE], "edges": [EDGE]},
    "ranked": [{"id": UUID, "activation": float, "score": float}],
    "context": {
        "text": str,
        "items": [ITEM],
        "citations": [{"node_id": UUID, "commit_id": COMMIT, **REFERENCES}],
    },
}
RECALL_SHOWN = {
    **RECALL,
    "subgraph": {"nodes": [{**NODE, **NODE_META, "slots": dict}], "edges": [{**EDGE, "commit_id": UUID}]},
    "debug": {
        "neighborhood_counts": {"nodes": int, "edges": int},
        "embeddings": Maybe([{"node_id": UUID, "dims": int, "sha256": SHA256, "preview": [float]}]),
    },
    "rules": {"scope": str, **COUNTS, "applied": APPLIED},
}
RECALL_PREVIEW = {**RECALL, "subgraph": {"nodes": [{**NODE, "slots_preview": Or(dict, None)}], "edges": [EDGE]}}
QUERY = {"query": {"text": str, "embedding_provider": str}}

EVALUATE = {
    "scope": str,
    "tenant_id": str,
    **COUNTS,
    "active": [RULE_MATCH],
    "shadow": [RULE_MATCH],
    "agent_visibility_summary": VISIBILITY,
    "applied": APPLIED_WITH_SHADOW,
}

SELECTION = {
    "candidates": [str],
    "allowed": [str],
    "denied": [{"name": str, "reason": Or("deny_list", "not_in_allow_list")}],
    "preferred": [str],
    "ordered": [str],
    "selected": TEXT,
    "fallback": {
        "applied": bool,
        "reason": Or("none", "allowlist_filtered_all", "deny_filtered_all"),
        "note": str,
        "effective_mode": Or("allow_and_deny", "deny_only"),
    },
}
SELECT = {
    "scope": str,
    "tenant_id": str,
    "candidates": [str],
    "selection": SELECTION,
    "rules": {
        **COUNTS,
        "agent_visibility_summary": VISIBILITY,
        "applied": APPLIED,
        "tool_conflicts_summary": [str],
        "shadow_selection": Maybe(SELECTION),
        "shadow_tool_conflicts_summary": Maybe([str]),
    },
    "decision": {
        "decision_id": UUID,
        "run_id": TEXT,
        "selected_tool": TEXT,
        "policy_sha256": SHA256,
        "source_rule_ids": [UUID],
        "created_at": str,
    },
}

TOOLS_FEEDBACK = {
    "ok": True,
    "scope": str,
    "tenant_id": str,
    "updated_rules": int,
    "rule_node_ids": [UUID],
    "commit_id": UUID,
    "commit_hash": SHA256,
    "decision_id": UUID,
    "decision_link_mode": Or("provided", "inferred", "created_from_feedback"),
    "decision_policy_sha256": SHA256,
}
TOOLS_FEEDBACK_UNATTRIBUTED = {
    "ok": True,
    "scope": str,
    "tenant_id": str,
    "updated_rules": int,
    "rule_node_ids": [],
    "commit_id": None,
    "commit_hash": None,
    "note": str,
}
