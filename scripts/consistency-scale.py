"""Parts of consistency-scale.sh: rows whose digests and chain hold, and the report."""

import hashlib
import json
import random
import sys
import time
import uuid
from pathlib import Path

SCOPE = "default/scale"
MODEL = "scale:made"
DIM = 16
# Nodes of one commit; the first of every hundred is a topic, the others are events that are part of it.
CHUNK = 1_000
TOPIC = 100


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(text):
    return hashlib.sha256(text.encode()).digest()


def commit_id(commit_hash):
    raw = bytearray(sha256(f"aionis-memory-graph:commit:{commit_hash.hex()}")[:16])
    raw[6] = (raw[6] & 0x0F) | 0x50
    raw[8] = (raw[8] & 0x3F) | 0x80
    return uuid.UUID(bytes=bytes(raw))


def node(rng, at, members):
    kind = "topic" if at % TOPIC == 0 else "event"
    words = [f"w{rng.randrange(50_000)}" for _ in range(24)]
    slots = {"member_count": members, "topic_state": "active"} if kind == "topic" else {"source": "scale", "n": at}
    content = {
        "v": 2, "kind": "node", "id": str(uuid.UUID(int=rng.getrandbits(128))), "client_id": None, "type": kind,
        "title": None, "text_summary": " ".join(words), "slots": slots, "raw_ref": None, "evidence_ref": None,
        "memory_lane": "shared", "producer_agent_id": None, "owner_agent_id": None, "owner_team_id": None,
    }
    counts = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    terms = " ".join(f"{word} {count}" for word, count in sorted(counts.items()))
    return content, terms, sha256(canonical(content))


def edge(rng, kind, src, dst):
    content = {
        "v": 2, "kind": "edge", "id": str(uuid.UUID(int=rng.getrandbits(128))), "type": kind, "src_id": src["id"],
        "dst_id": dst["id"], "weight": 0.5, "confidence": 0.75, "decay_rate": 0.01,
    }
    return content, sha256(canonical(content))


class Tables:
    """Files for COPY, one per table."""

    COLUMNS = {
        "memory_nodes": "scope_key, id, type, text_summary, slots, memory_lane, tier, salience, salience_at, importance, "
        "confidence, version, digest, content_seq, commit_seq, commit_id, created_at, updated_at, embedding_status, "
        "embedding_model, embedding_ready_at, recall_flags, term_count, lexical_terms, change_no",
        "memory_edges": "scope_key, src_id, type, dst_id, id, weight, confidence, decay_rate, created_at, commit_seq, change_no",
        "memory_vectors": "scope_key, model, node_id, dim, source_digest, origin, gate, created_at, code, embedding",
        "memory_commits": "scope_key, seq, id, parent_hash, hash, kind, actor, input_sha256, request_sha256, changes, created_at",
    }

    def __init__(self, work):
        self.work = work
        self.files = {name: open(work / f"{name}.copy", "w", encoding="utf-8") for name in self.COLUMNS}

    def put(self, table, *values):
        self.files[table].write("\t".join(str(value) for value in values) + "\n")

    def finish(self, head, nodes, edges, now):
        for file in self.files.values():
            file.close()
        lines = ["BEGIN;"]
        for name, columns in self.COLUMNS.items():
            lines.append(f"\\copy {name} ({columns}) FROM '{self.work / (name + '.copy')}'")
        lines.append(
            "INSERT INTO memory_scopes (scope_key, head_seq, head_hash, node_count, edge_count, vector_count, change_no, "
            f"created_at, updated_at) VALUES ('{SCOPE}', {head[0]}, '\\x{head[1].hex()}', {nodes}, {edges}, {nodes}, 1, {now}, {now});"
        )
        lines.append(
            f"INSERT INTO aionis_meta VALUES ('embedding_model', '{MODEL}'), ('embedding_dim', '{DIM}') "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value;"
        )
        lines.append("COMMIT;")
        (self.work / "fill.sql").write_text("\n".join(lines) + "\n", encoding="utf-8")


def chunk_edges(rng, contents):
    """Three edges per node: into its topic, and to two others."""
    made = []
    for at, (content, _, _) in enumerate(contents):
        topic = contents[at - at % TOPIC][0]
        if content is not topic:
            made.append(edge(rng, "part_of", content, topic))
        for step in (1, 7) if content is not topic else (1, 3, 7):
            made.append(edge(rng, "related_to", content, contents[(at + step) % len(contents)][0]))
    return made


def rows(total, work):
    rng, tables, now = random.Random(7), Tables(work), int(time.time() * 1e6)
    seq, parent, edges = 0, bytes(32), 0
    vector, code = "[" + ",".join(["0.25"] * DIM) + "]", "\\\\x" + "00" * DIM
    for start in range(0, total, CHUNK):
        seq += 1
        size = min(CHUNK, total - start)
        contents = [node(rng, at, min(TOPIC, size - at) - 1) for at in range(size)]
        made = chunk_edges(rng, contents) if size > 7 else []
        changes = canonical(
            [["node", "create", content["id"], digest.hex()] for content, _, digest in contents]
            + [["edge", "create", content["id"], digest.hex()] for content, digest in made]
        )
        header = {
            "actor": "scale", "changes_sha256": sha256(changes).hex(), "created_at_us": now, "input_sha256": "0" * 64,
            "kind": "write", "model_version": None, "parent_hash": parent.hex(), "prompt_version": None,
            "request_sha256": sha256(str(seq)).hex(), "scope_key": SCOPE, "seq": seq,
        }
        commit_hash = sha256("aionis.commit.v2\n" + canonical(header))
        cid = commit_id(commit_hash)
        tables.put(
            "memory_commits", SCOPE, seq, cid, "\\\\x" + parent.hex(), "\\\\x" + commit_hash.hex(), "write", "scale", "0" * 64,
            "\\\\x" + header["request_sha256"], changes, now,
        )
        for content, terms, digest in contents:
            hexed = "\\\\x" + digest.hex()
            tables.put(
                "memory_nodes", SCOPE, content["id"], content["type"], content["text_summary"], canonical(content["slots"]),
                "shared", "hot", 0.5, now, 0.5, 0.5, 1, hexed, seq, seq, cid, now, now, "ready", "client", now, 0, 24, terms, 1,
            )
            tables.put("memory_vectors", SCOPE, MODEL, content["id"], DIM, hexed, "client", 7, now, code, vector)
        for content, _ in made:
            tables.put(
                "memory_edges", SCOPE, content["src_id"], content["type"], content["dst_id"], content["id"], 0.5, 0.75, 0.01,
                now, seq, 1,
            )
        edges += len(made)
        parent = commit_hash
    tables.finish((seq, parent), total, edges, now)
    print(f"{total} nodes, {edges} edges, {seq} commits")


def figures(work, name):
    lines = (work / f"{name}.figures").read_text(encoding="utf-8").splitlines()
    return {line.split()[0]: [int(value) for value in line.split()[1:]] for line in lines}


def reads(work, name):
    """Per table: whole readings, rows by index, rows stored."""
    before, after = figures(work, f"{name}.before"), figures(work, f"{name}.after")
    return {
        table: (values[0] - before[table][0], values[3] - before[table][3], values[4])
        for table, values in after.items()
    }


def report(work):
    problems, times = [], {}
    for mode in ("full", "fast"):
        found = json.loads((work / f"{mode}.json").read_text(encoding="utf-8"))
        bad = [check["name"] for check in found["checks"] if check["state"] not in ("pass", "skipped")]
        skipped = [check["name"] for check in found["checks"] if check["state"] == "skipped"]
        if not found["ok"] or bad or (mode == "full" and skipped):
            problems.append(f"{mode}: not all checks pass: {bad + skipped}")
        times[mode] = found["duration_ms"]
        print(f"{mode}: {len(found['checks'])} checks, {len(skipped)} skipped, {times[mode]} ms")
    for mode in ("full", "fast", "reference"):
        print(f"{mode}: table, read as a whole, rows by index, rows stored")
        for table, (whole, by_index, stored) in reads(work, mode).items():
            if whole or by_index:
                print(f"  {table:24} {whole:3} {by_index:10} {stored:10}")
            if mode != "reference" and whole:
                problems.append(f"{mode}: {table} was read as a whole {whole} times")
            # The head is looked at beside; heap fetches of an index count rows, once each.
            if mode == "full" and stored > 100 and by_index > stored * 1.01 + 100:
                problems.append(f"full: {by_index} rows of {table} were read, {stored} are stored")
    lines = (work / "reference.out").read_text(encoding="utf-8").splitlines()
    spent = [float(line.split()[1]) for line in lines if line.startswith("Time:")]
    print(f"reference: {len(spent)} counts, {sum(spent):.0f} ms")
    if times["fast"] * 20 > times["full"]:
        problems.append(f"fast mode took {times['fast']} ms of {times['full']} ms")
    for problem in problems:
        print(f"NOT AS IT SHOULD BE: {problem}")
    return 1 if problems else 0


def main():
    if sys.argv[1] == "url":
        server, name = sys.argv[2], sys.argv[3]
        address, _, parameters = server.partition("?")
        base = address.rsplit("/", 1)[0]
        print(f"{base}/{name}" + (f"?{parameters}" if parameters else ""))
        return 0
    if sys.argv[1] == "rows":
        rows(int(sys.argv[2]), Path(sys.argv[3]))
        return 0
    return report(Path(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
