"""Runs one part of the tests of a published client: `client.py PART SETTINGS`, where the settings are JSON."""

import json
import sys


def shapes_trip(_):
    """Answers that are not of their shape are noticed, each for its own fault."""
    import shapes

    good = {"id": "6f2d1c5e-0000-4000-8000-00000000a001", "type": "event", "client_id": "a"}
    answer = {
        "tenant_id": "t",
        "scope": "s",
        "commit_id": good["id"],
        "commit_hash": "0" * 64,
        "nodes": [good],
        "edges": [],
        "embedding_backfill": {"enqueued": True, "pending_nodes": 1},
    }
    shapes.check(answer, shapes.WRITE)
    faults = [
        ("scope", None, "data.scope is None"),
        ("commit_id", "x", "data.commit_id"),
        ("commit_hash", "0" * 63, "data.commit_hash"),
        ("nodes", {}, "data.nodes"),
        ("nodes", [{**good, "type": "poem"}], "data.nodes.0.type"),
        ("nodes", [good, {"id": good["id"]}], "data.nodes.1.type is missing"),
        ("embedding_backfill", {"enqueued": True, "pending_nodes": True}, "pending_nodes is True"),
        ("embedding_backfill", {"enqueued": False, "pending_nodes": 1}, "enqueued is False"),
    ]
    for name, value, told in faults:
        try:
            shapes.check({**answer, name: value}, shapes.WRITE)
        except shapes.Wrong as wrong:
            assert told in str(wrong), (told, str(wrong))
        else:
            raise AssertionError(f"{name} = {value!r} was not noticed")
    for value, shape in (([1], []), (True, float), (1.5, int), ({"a": 1}, {"a": str}), (None, shapes.Or(str, int))):
        try:
            shapes.check(value, shape)
        except shapes.Wrong:
            continue
        raise AssertionError(f"{value!r} was taken for {shape!r}")


def main(part, settings):
    if part == "shapes":
        return shapes_trip(settings)
    import failures
    import methods

    parts = {
        "methods": methods.run,
        "find": methods.find,
        "refusals": failures.refusals,
        "network": failures.network,
        "saturated": failures.saturated,
        "broken": failures.broken,
        "retries": failures.retries,
    }
    parts[part](settings)
    return None


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
