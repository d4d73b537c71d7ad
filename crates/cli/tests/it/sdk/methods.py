"""Every method of a published client, with the arguments its types and the specification name."""

import json
import typing

import shapes
from common import Client, expect, refused

DEPLOY = {"intent": "deploy", "tool": {"name": "psql"}, "input": {"content_type": "text"}}
TOOLS = ["curl", "rm", "psql"]


def vector(dim, at):
    """A vector of unit length that is nearest to itself."""
    return [1.0 if number == at else 0.0 for number in range(dim)]


def rule(client_id, then, condition):
    return {
        "client_id": client_id,
        "type": "rule",
        "title": client_id,
        "text_summary": f"What {client_id} says about deployments.",
        "slots": {"if": condition, "then": then, "exceptions": [], "rule_scope": "global"},
    }


def nodes(dim):
    return [
        {
            "client_id": "incident",
            "type": "event",
            "tier": "hot",
            "title": "Migration",
            "text_summary": "The migration of the billing database failed at midnight.",
            "slots": {"severity": 2, "tags": ["billing", "night"], "zone": "a"},
            "raw_ref": "log://billing/1",
            "evidence_ref": "trace://billing/1",
            "embedding": vector(dim, 0),
            "embedding_model": "client",
            "salience": 0.9,
            "importance": 0.8,
            "confidence": 0.7,
        },
        {"client_id": "billing", "type": "entity", "title": "Billing database", "embedding": vector(dim, 1)},
        {
            "client_id": "migrations",
            "type": "topic",
            "title": "Failed migrations",
            "text_summary": "Migrations that failed.",
            "slots": {"topic_state": "active", "member_count": 1},
            "embedding": vector(dim, 2),
        },
        {
            "client_id": "log",
            "type": "evidence",
            "text_summary": "lock timeout on table invoices",
            "raw_ref": "log://2",
        },
        rule("safe", {"tool": {"deny": ["rm"], "prefer": ["psql"]}}, {"intent": "deploy"}),
        rule("fast", {"tool": {"allow": ["curl", "psql"], "prefer": ["curl"]}}, {"intent": "deploy"}),
        rule("trial", {"output": {"format": "json"}, "tool": {"deny": ["curl"]}}, {"intent": "deploy"}),
        rule("narrow", {"tool": {"allow": ["psql"]}}, {"intent": "audit"}),
        rule("narrower", {"tool": {"allow": ["curl"]}}, {"intent": "audit"}),
    ]


EDGES = [
    {
        "type": "related_to",
        "src": {"client_id": "incident"},
        "dst": {"client_id": "billing"},
        "weight": 0.9,
        "confidence": 0.8,
    },
    {"type": "part_of", "src": {"client_id": "incident"}, "dst": {"client_id": "migrations"}, "weight": 0.8},
    {"type": "derived_from", "src": {"client_id": "log"}, "dst": {"client_id": "incident"}, "decay_rate": 0.02},
    {"type": "related_to", "src": {"client_id": "safe"}, "dst": {"client_id": "incident"}, "weight": 0.7},
]


def owners(settings):
    return {
        f"owner_{kind}_id": name
        for kind, name in (("agent", settings.get("agent")), ("team", settings.get("team")))
        if name
    }


def consumers(settings):
    return {
        f"consumer_{kind}_id": name
        for kind, name in (("agent", settings.get("agent")), ("team", settings.get("team")))
        if name
    }


def store(client, settings):
    """Writes a memory twice over, and returns the ids of its nodes by client id."""
    place, agent = {"tenant_id": settings["tenant"], "scope": settings["scope"]}, settings.get("agent") or "nora"
    first = client.call(
        "write",
        {
            **place,
            "actor": "sdk",
            "input_text": "notes of the night shift",
            "model_version": "m-1",
            "prompt_version": "p-1",
            "auto_embed": True,
            "memory_lane": "shared",
            "producer_agent_id": agent,
            "nodes": nodes(settings["dim"]),
            "edges": EDGES,
        },
        shapes.WRITE,
    )
    expect((first["tenant_id"], first["scope"]), (settings["tenant"], settings["scope"]), "the place")
    expect(
        [node["client_id"] for node in first["nodes"]],
        [node["client_id"] for node in nodes(settings["dim"])],
        "in order",
    )
    expect(len(first["edges"]), len(EDGES), "edges")
    ids = {node["client_id"]: node["id"] for node in first["nodes"]}
    second = client.call(
        "write",
        {
            **place,
            "parent_commit_id": first["commit_id"],
            "input_sha256": "0" * 64,
            "force_reembed": True,
            "trigger_topic_cluster": True,
            "topic_cluster_async": True,
            "memory_lane": "private",
            "owner_agent_id": agent,
            **owners(settings),
            "owner_team_id": settings.get("team") or "night",
            "nodes": [
                {"id": "6f2d1c5e-0000-4000-8000-00000000a001", "type": "event", "text_summary": "a private note"}
            ],
            "edges": [
                {
                    "id": "6f2d1c5e-0000-4000-8000-00000000b001",
                    "type": "related_to",
                    "src": {"id": "6f2d1c5e-0000-4000-8000-00000000a001"},
                    "dst": {"client_id": "incident"},
                }
            ],
        },
        shapes.WRITE,
    )
    expect(second["nodes"][0]["id"], "6f2d1c5e-0000-4000-8000-00000000a001", "an id of the caller's")
    expect(second["edges"][0]["dst_id"], ids["incident"], "an earlier node by its client id")
    for name, state in (
        ("safe", "active"),
        ("fast", "active"),
        ("trial", "shadow"),
        ("narrow", "active"),
        ("narrower", "active"),
    ):
        # No client has a method for this; its own transport is used.
        client.sdk._request(
            "/v1/memory/rules/state",
            {**place, "rule_node_id": ids[name], "state": state, "input_text": "reviewed"},
            {},
        )
    return ids


def knobs(settings):
    return {
        "limit": 10,
        "neighborhood_hops": 2,
        "max_nodes": 40,
        "max_edges": 40,
        "ranked_limit": 50,
        "min_edge_weight": 0.0,
        "min_edge_confidence": 0.0,
        "include_slots": False,
        "include_slots_preview": False,
        "slots_preview_keys": 2,
        **consumers(settings),
    }


def newer(client):
    """Arguments of a recall that only newer clients know."""
    if not client.types:
        return {}
    return {"context_token_budget": 4000, "context_char_budget": 16000, "context_compaction_profile": "balanced"}


def recall(client, settings, ids):
    place = {"tenant_id": settings["tenant"], "scope": settings["scope"]}
    if not consumers(settings):
        place["consumer_agent_id"], place["consumer_team_id"] = "nora", "night"
    nearest = {**place, **knobs(settings), **newer(client), "query_embedding": vector(settings["dim"], 0)}
    shown = client.call(
        "recall",
        {
            **nearest,
            "return_debug": True,
            "include_embeddings": settings["may_debug"],
            "include_meta": True,
            "include_slots": True,
            "rules_context": DEPLOY,
            "rules_include_shadow": True,
            "rules_limit": 20,
        },
        shapes.RECALL_SHOWN,
    )
    expect(shown["seeds"][0]["id"], ids["incident"], "the nearest node")
    expect(round(shown["seeds"][0]["similarity"], 6), 1.0, "its similarity")
    expect(set(ids.values()) >= {ids["billing"], ids["migrations"]}, True, "ids")
    reached = {node["id"]: node for node in shown["subgraph"]["nodes"]}
    expect({ids["billing"], ids["migrations"]} <= set(reached), True, "neighbours are reached")
    incident = reached[ids["incident"]]
    expect(
        (incident["raw_ref"], incident["salience"], incident["slots"]["severity"]),
        ("log://billing/1", 0.9, 2),
        "as written",
    )
    shapes.check(
        reached[ids["migrations"]], {"topic_state": shapes.TEXT, "member_count": shapes.Or(int, None)}, "topic"
    )
    expect("embeddings" in shown["debug"], settings["may_debug"], "embeddings are shown to those who may")
    expect(shown["rules"]["matched"] >= 2, True, "rules beside")
    expect("log://billing/1" in json.dumps(shown["context"]["citations"]), True, "citations")
    client.call("recall", {**place, "query_embedding": vector(settings["dim"], 1)}, shapes.RECALL)
    preview = client.call("recall", {**nearest, "include_slots_preview": True}, shapes.RECALL_PREVIEW)
    slots = {node["id"]: node["slots_preview"] for node in preview["subgraph"]["nodes"]}
    expect(sorted(slots[ids["incident"]]), ["severity", "tags"], "the first two slots")
    empty = client.call(
        "recall", {**place, "scope": "empty", "query_embedding": vector(settings["dim"], 0)}, shapes.RECALL
    )
    nothing = {
        "seeds": [],
        "subgraph": {"nodes": [], "edges": []},
        "ranked": [],
        "context": {"text": "", "items": [], "citations": []},
    }
    expect({name: empty[name] for name in nothing}, nothing, "an empty scope")


def recall_text(client, settings, ids):
    asked = {
        "tenant_id": settings["tenant"],
        "scope": settings["scope"],
        "consumer_agent_id": "nora",
        "consumer_team_id": "night",
        **knobs(settings),
        **newer(client),
        "query_text": "Which migration of the billing database failed?",
    }
    shown = client.call(
        "recall_text",
        {
            **asked,
            # The newer client's type inherits it from the recall by vector; it is not for this method.
            "query_embedding": [0.5],
            "return_debug": True,
            "include_embeddings": False,
            "include_meta": True,
            "include_slots": True,
            "rules_context": DEPLOY,
            "rules_include_shadow": False,
            "rules_limit": 20,
        },
        {**shapes.RECALL_SHOWN, **shapes.QUERY},
    )
    expect(shown["query"]["text"], asked["query_text"], "the question")
    expect(shown["seeds"][0]["id"], ids["incident"], "what it is about")
    expect("# Supporting Events / Evidence" in shown["context"]["text"], True, "the context's layout")
    plain = client.call(
        "recall_text",
        {"scope": settings["scope"], "query_text": "mail nora@example.com"},
        {**shapes.RECALL, **shapes.QUERY},
    )
    expect("nora@example.com" in plain["query"]["text"], False, "personal data is replaced")


def rules(client, settings, ids):
    asked = {
        "tenant_id": settings["tenant"],
        "scope": settings["scope"],
        "context": {**DEPLOY, **({"agent": {"id": settings["agent"]}} if settings.get("agent") else {})},
        "include_shadow": True,
        "limit": 50,
    }
    found = client.call("rules_evaluate", asked, shapes.EVALUATE)
    expect({match["rule_node_id"] for match in found["active"]}, {ids["safe"], ids["fast"]}, "active rules")
    expect([match["rule_node_id"] for match in found["shadow"]], [ids["trial"]], "shadow rules")
    tool = found["applied"]["policy"]["tool"]
    expect((tool["allow"], tool["deny"]), (["curl", "psql"], ["rm"]), "the policy")
    expect(len(found["applied"]["tool_explain"]["conflicts"]) >= 1, True, "competing preferences")
    plain = {name: shape for name, shape in shapes.EVALUATE.items() if name != "applied"}
    without = client.call(
        "rules_evaluate", {"scope": settings["scope"], "include_shadow": False}, {**plain, "applied": shapes.APPLIED}
    )
    expect(
        (without["matched"], without["applied"]["policy"]["tool"], without["shadow"]), (0, {}, []), "nothing applies"
    )


def tools(client, settings, ids):
    place = {"tenant_id": settings["tenant"], "scope": settings["scope"]}
    asked = {
        **place,
        "run_id": "run-1",
        "context": DEPLOY,
        "candidates": TOOLS,
        "include_shadow": True,
        "rules_limit": 50,
        "strict": True,
    }
    chosen = client.call("tools_select", asked, shapes.SELECT)
    expect(chosen["selection"]["denied"], [{"name": "rm", "reason": "deny_list"}], "denied")
    expect(chosen["selection"]["selected"] in ("curl", "psql"), True, "selected")
    expect(set(chosen["decision"]["source_rule_ids"]), {ids["safe"], ids["fast"]}, "the rules it was made by")
    expect(
        "curl" in [one["name"] for one in chosen["rules"]["shadow_selection"]["denied"]],
        True,
        "what a shadow rule would do",
    )
    refused(
        400, "no_tools_allowed", client, "tools_select", {**place, "context": {"intent": "audit"}, "candidates": ["rm"]}
    )
    loose = client.call(
        "tools_select", {**place, "context": {"intent": "audit"}, "candidates": ["rm"], "strict": False}, shapes.SELECT
    )
    expect(loose["selection"]["fallback"]["reason"], "allowlist_filtered_all", "set aside on demand only")
    tools_feedback(client, place, chosen, ids)


def tools_feedback(client, place, chosen, ids):
    tool = chosen["selection"]["selected"]
    report = {
        **place,
        "actor": "sdk",
        "run_id": "run-1",
        "decision_id": chosen["decision"]["decision_id"],
        "outcome": "positive",
        "context": DEPLOY,
        "candidates": TOOLS,
        "selected_tool": tool,
        "include_shadow": False,
        "rules_limit": 50,
        "target": "tool",
        "note": "it went well",
        "input_text": "the deployment succeeded",
    }
    credited = client.call("tools_feedback", report, shapes.TOOLS_FEEDBACK)
    expect((credited["updated_rules"], credited["decision_link_mode"]), (2, "provided"), "credited")
    expect(set(credited["rule_node_ids"]), {ids["safe"], ids["fast"]}, "to the rules of the decision")
    expect(credited["decision_policy_sha256"], chosen["decision"]["policy_sha256"], "the policy of the decision")
    client.call("tools_select", {**place, "run_id": "run-2", "context": DEPLOY, "candidates": TOOLS}, shapes.SELECT)
    inferred = {**report, "run_id": "run-2", "outcome": "neutral", "target": "all", "input_sha256": "1" * 64}
    del inferred["decision_id"]
    expect(
        client.call("tools_feedback", inferred, shapes.TOOLS_FEEDBACK)["decision_link_mode"], "inferred", "by its run"
    )
    made = {**inferred, "run_id": "run-3", "outcome": "negative", "context": {**DEPLOY, "new": True}}
    expect(
        client.call("tools_feedback", made, shapes.TOOLS_FEEDBACK)["decision_link_mode"],
        "created_from_feedback",
        "made from it",
    )
    nobody = {**made, "run_id": "run-4", "context": {"intent": "sleep"}}
    client.call("tools_feedback", nobody, shapes.TOOLS_FEEDBACK_UNATTRIBUTED)


TYPES = {
    "write": "MemoryWriteInput",
    "recall": "MemoryRecallInput",
    "recall_text": "MemoryRecallTextInput",
    "rules_evaluate": "RulesEvaluateInput",
    "tools_select": "ToolsSelectInput",
    "tools_feedback": "ToolsFeedbackInput",
}


def every_argument_was_used(client):
    """Insists that each argument the client's types name was sent by some call."""
    for method, name in TYPES.items():
        named = set(typing.get_type_hints(getattr(client.types, name)))
        expect(named - client.sent[method], set(), f"arguments of {method} that no call used")


def run(settings):
    client = Client(settings)
    ids = store(client, settings)
    recall(client, settings, ids)
    recall_text(client, settings, ids)
    rules(client, settings, ids)
    tools(client, settings, ids)
    if client.types:
        every_argument_was_used(client)
    expect(set(client.sent), set(TYPES), "methods")


def find(settings):
    """The newer client's `find`. It documents arguments and no member of the answer."""
    client = Client(settings)
    ids = store(client, settings)
    place = {
        "tenant_id": settings["tenant"],
        "scope": settings["scope"],
        "consumer_agent_id": "nora",
        "consumer_team_id": "night",
    }
    place.update(consumers(settings))
    by_client_id = {**place, "client_id": "incident", "limit": 10, "offset": 0}
    by_id = {**place, "id": ids["incident"], "include_meta": True, "include_slots": True}
    by_content = {
        **place,
        "type": "event",
        "title_contains": "Migration",
        "text_contains": "billing database",
        "memory_lane": "shared",
        "slots_contains": {"zone": "a"},
        "include_slots_preview": True,
        "slots_preview_keys": 3,
    }
    for asked in (by_client_id, by_id, by_content):
        found = json.dumps(client.call("find", asked, dict))
        expect((ids["incident"] in found, ids["billing"] in found), (True, False), f"found by {sorted(asked)}")
    nobody = json.dumps(client.call("find", {**by_content, "text_contains": "zebra"}, dict))
    expect(ids["incident"] in nobody, False, "not found by another text")
