#!/usr/bin/env python3
"""Memories of several tenants, always the same ones, for a stack that is to be judged.

Usage: seed-tenants.py keys ENV_FILE                          adds a key per tenant to MEMORY_API_KEYS_JSON of the file
       seed-tenants.py fill ENV_FILE [--url URL] [--result-file FILE]

Each tenant gets a team's memory in the scope `team`: topics, events about them in clusters, relations, and a rule; the tenant
`default`, whose key scripts/stack-env.sh makes, too: its scope is what the release gate judges. `fill` waits until
every vector is derived, asks each tenant for something only another one knows, and fails when that is found. The result names
the digest of what was sent, so that two runs can be compared.
"""

import argparse
import hashlib
import json
import pathlib
import random
import re
import secrets
import sys
import time
import urllib.error
import urllib.request

TENANTS = ["default", *(f"team-{at:02}" for at in range(1, 9))]
TOPICS = ["releases", "billing", "hiring", "travel", "support", "security"]
EVENTS_PER_TOPIC = 40
WAIT_S = 300
VERBS = ["moved", "reviewed", "postponed", "approved", "measured", "rewrote", "closed", "opened"]
THINGS = {
    "releases": ["the release branch", "the changelog", "the rollback plan", "the canary", "the freeze"],
    "billing": ["the invoice run", "the tax table", "the refund queue", "the payment terms", "the dunning letters"],
    "hiring": ["the interview plan", "the offer", "the referral list", "the onboarding week", "the job description"],
    "travel": ["the hotel booking", "the train tickets", "the visa papers", "the expense report", "the packing list"],
    "support": ["the ticket backlog", "the escalation path", "the macro library", "the phone rota", "the status page"],
    "security": ["the key rotation", "the audit log", "the access review", "the patch window", "the incident drill"],
}


def read(path):
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name: value.strip("'") for name, value in found.items()}


def add_keys(path):
    keys = json.loads(read(path)["MEMORY_API_KEYS_JSON"])
    known = {entry["tenant_id"] for entry in keys.values()}
    for tenant in TENANTS:
        if tenant not in known:
            keys[secrets.token_hex(24)] = {"tenant_id": tenant, "role": "writer", "agent_id": "seed"}
    text = pathlib.Path(path).read_text(encoding="utf-8")
    line = f"MEMORY_API_KEYS_JSON='{json.dumps(keys, separators=(',', ':'))}'"
    text = re.sub(r"^MEMORY_API_KEYS_JSON=.*$", lambda _: line, text, flags=re.M)
    pathlib.Path(path).write_text(text, encoding="utf-8")


def memory_of(tenant):
    """Bodies of writes; they depend on the tenant's name only."""
    rng = random.Random(tenant)
    for topic in TOPICS:
        nodes = [{"client_id": f"topic-{topic}", "type": "topic", "title": topic.capitalize(),
                  "text_summary": f"What {tenant} knows about {topic}."}]
        edges = []
        for at in range(EVENTS_PER_TOPIC):
            thing, verb, day = rng.choice(THINGS[topic]), rng.choice(VERBS), rng.randrange(1, 29)
            nodes.append({"client_id": f"{topic}-{at}", "type": "event",
                          "text_summary": f"On day {day} {tenant} {verb} {thing} and noted the code {tenant}-{topic}-{at}."})
            edges.append({"type": "part_of", "weight": 0.9, "src": {"client_id": f"{topic}-{at}"},
                          "dst": {"client_id": f"topic-{topic}"}})
            if at:
                edges.append({"type": "related_to", "weight": 0.6, "src": {"client_id": f"{topic}-{at}"},
                              "dst": {"client_id": f"{topic}-{at - 1}"}})
        yield {"scope": "team", "actor": "seed", "memory_lane": "shared", "input_text": f"{tenant} on {topic}", "nodes": nodes,
               "edges": edges}
    yield {"scope": "team", "actor": "seed", "memory_lane": "shared", "input_text": f"a rule of {tenant}", "nodes": [
        {"client_id": "rule-deploy", "type": "rule", "title": "Deploy with care", "text_summary": "Deploys use the pipeline.",
         "slots": {"if": {"task": "deploy"}, "then": {"tool": {"prefer": ["pipeline"], "deny": ["ssh"]}}}}]}


class Service:
    def __init__(self, url, key):
        self.url, self.key = url.rstrip("/"), key

    def post(self, path, body):
        data = json.dumps(body).encode()
        for attempt in range(60):
            request = urllib.request.Request(self.url + path, data, {"content-type": "application/json", "x-api-key": self.key})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503):
                    raise SystemExit(f"seed-tenants: POST {path}: {error.code} {error.read().decode()[:400]}") from error
                time.sleep(min(float(error.headers.get("retry-after") or 1), 5))
        raise SystemExit(f"seed-tenants: POST {path} was refused too often")


def fill(args):
    keys = json.loads(read(args.env_file)["MEMORY_API_KEYS_JSON"])
    key_of = {entry["tenant_id"]: key for key, entry in keys.items()}
    digest, counts = hashlib.sha256(), {"tenants": 0, "nodes": 0, "edges": 0}
    services = {tenant: Service(args.url, key_of[tenant]) for tenant in TENANTS}
    for tenant, service in services.items():
        counts["tenants"] += 1
        for body in memory_of(tenant):
            digest.update(json.dumps(body, sort_keys=True).encode())
            answer = service.post("/v1/memory/write", body)
            counts["nodes"] += len(answer["nodes"])
            counts["edges"] += len(answer.get("edges", []))
    until = time.monotonic() + WAIT_S
    for tenant, service in services.items():
        while service.post("/v1/memory/recall_text", {"scope": "team", "query_text": "ready", "limit": 1})["pending"]["nodes"]:
            if time.monotonic() > until:
                raise SystemExit(f"seed-tenants: vectors of {tenant} are missing after {WAIT_S} s; does a worker run?")
            time.sleep(0.5)
    problems = []
    for at, (tenant, service) in enumerate(services.items()):
        other = TENANTS[(at + 1) % len(TENANTS)]
        for whose in (tenant, other):
            code = f"{whose}-billing-7"
            answer = service.post("/v1/memory/recall_text", {"scope": "team", "query_text": f"the code {code}", "limit": 20})
            found = any(code in (seed.get("text_summary") or "") for seed in answer["seeds"])
            if found != (whose == tenant):
                problems.append(f"{tenant} {'finds' if found else 'does not find'} {code}")
    result = {"ok": not problems, "problems": problems, "dataset_sha256": digest.hexdigest(), **counts}
    print(json.dumps(result))
    if args.result_file:
        path = pathlib.Path(args.result_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if not problems else 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("keys").add_argument("env_file")
    filling = commands.add_parser("fill")
    filling.add_argument("env_file")
    filling.add_argument("--url", default="http://127.0.0.1:3001")
    filling.add_argument("--result-file")
    args = parser.parse_args()
    if args.command == "keys":
        return add_keys(args.env_file)
    return fill(args)


if __name__ == "__main__":
    sys.exit(main())
