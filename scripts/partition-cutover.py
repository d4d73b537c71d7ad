"""Parts of partition-cutover.sh: rows of several scopes, a steady load over two servers, and the report."""

import http.client
import importlib.util
import itertools
import json
import random
import sys
import threading
import time
from pathlib import Path

# Which part of all nodes each scope gets. The first is large enough for partitions of its own.
SCOPES = [("big", 0.6), ("perf_1", 0.15), ("perfX1", 0.15), ("small", 0.1)]
PER_SECOND = 50
WORKERS = 16
# How long a request may take before it counts as failed.
PATIENCE_S = 30


def scale():
    """The module that makes rows whose digests and chain hold."""
    spec = importlib.util.spec_from_file_location("scale", Path(__file__).with_name("consistency-scale.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(total, work):
    module = scale()
    for name, share in SCOPES:
        directory = work / name
        directory.mkdir()
        module.SCOPE = f"default/{name}"
        module.rows(int(total * share), directory)


class Load:
    """Writes and recalls at a fixed rate, whatever the answers are."""

    def __init__(self, work, ports):
        self.work, self.ports = work, ports
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.numbers, self.results, self.written = itertools.count(), [], []

    def request(self, connections, rng, number, kind, port):
        scope = rng.choice(SCOPES)[0]
        if kind == "write":
            name = f"load-{number}"
            body = {
                "scope": scope, "actor": "load", "input_text": name, "memory_lane": "shared",
                "nodes": [{"client_id": name, "type": "event", "text_summary": f"load w{rng.randrange(50_000)}"}],
            }
            path = "/v1/memory/write"
        else:
            body = {"scope": scope, "query_embedding": [rng.uniform(-1, 1) for _ in range(16)], "limit": 10}
            path = "/v1/memory/recall"
        connection = connections.get(port) or http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connections[port] = connection
        try:
            headers = {"content-type": "application/json", "idempotency-key": f"load-{number}"}
            connection.request("POST", path, json.dumps(body), headers if kind == "write" else {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200 and kind == "write":
                with self.lock:
                    self.written.append((f"default/{scope}", f"load-{number}"))
            return answer.status, "" if answer.status == 200 else text[:200].decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            connections.pop(port)
            return 0, repr(error)

    def work_off(self, kind, at, began):
        connections, rng = {}, random.Random(f"{kind}{at}")
        every = WORKERS / PER_SECOND
        due = began + at * every / WORKERS
        while not self.stop.is_set():
            time.sleep(max(0.0, due - time.time()))
            number, started = next(self.numbers), time.time()
            ports = self.live_ports()
            port = ports[number % len(ports)]
            status, error = self.request(connections, rng, number, kind, port)
            tries = 1
            # A server that is gone is not asked again; what it did not answer is, by its key.
            while status == 0 and tries < 4:
                others = [p for p in self.live_ports() if p != port] or self.live_ports()
                status, error = self.request(connections, rng, number, kind, others[number % len(others)])
                tries += 1
            with self.lock:
                self.results.append((kind, started, time.time() - started, status, tries, error))
            # From the time it was due, so that a slow answer counts for all that had to wait.
            due = max(due + every, time.time() - 5)

    def live_ports(self):
        try:
            return [int(port) for port in (self.work / "ports").read_text(encoding="utf-8").split()] or self.ports
        except OSError:
            return self.ports

    def run(self):
        began = time.time()
        threads = [
            threading.Thread(target=self.work_off, args=(kind, at, began), daemon=True)
            for kind in ("write", "recall")
            for at in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        while not (self.work / "stop").exists():
            time.sleep(0.2)
        self.stop.set()
        for thread in threads:
            thread.join(PATIENCE_S * 5)
        (self.work / "load.json").write_text(json.dumps({"results": self.results, "written": self.written}), encoding="utf-8")


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def report(work):
    load = json.loads((work / "load.json").read_text(encoding="utf-8"))
    phases = [line.split("\t") for line in (work / "phases").read_text(encoding="utf-8").splitlines()]
    bounds = [(name, float(at)) for name, at in phases] + [("", float("inf"))]
    print(f"{'phase':<28}{'s':>7}{'writes':>8}{'recalls':>8}{'again':>7}{'503':>6}{'failed':>8}{'p95 ms':>8}{'max ms':>8}")
    failed_at_all, longest = [], {}
    for (name, start), (_, end) in zip(bounds, bounds[1:]):
        mine = [r for r in load["results"] if start <= r[1] < end]
        if not mine:
            continue
        failed = [r for r in mine if r[3] not in (200, 503)]
        refused = [r for r in mine if r[3] == 503]
        failed_at_all += failed
        latencies = [r[2] * 1000 for r in mine]
        longest[name] = max(latencies)
        seconds = (min(end, mine[-1][1]) - start)
        print(
            f"{name:<28}{seconds:>7.1f}{sum(r[0] == 'write' for r in mine):>8}{sum(r[0] == 'recall' for r in mine):>8}"
            f"{sum(r[4] > 1 for r in mine):>7}{len(refused):>6}{len(failed):>8}{percentile(latencies, 95):>8.0f}{max(latencies):>8.0f}"
        )
    for kind, _, _, status, tries, error in failed_at_all[:5]:
        print(f"failed: {kind} {status} after {tries} tries: {error}")
    stored = {tuple(line.split("\t")) for line in (work / "stored.tsv").read_text(encoding="utf-8").splitlines()}
    acknowledged = [tuple(pair) for pair in load["written"]]
    lost = [pair for pair in acknowledged if pair not in stored]
    doubled = int((work / "doubled").read_text(encoding="utf-8"))
    print(f"acknowledged writes {len(acknowledged)}, lost {len(lost)}, stored twice {doubled}, requests failed {len(failed_at_all)}")
    return not lost and not doubled and not failed_at_all


def warm(port):
    """Has a server read every scope once, as it does by itself for the scopes written last; that takes a while at size."""
    for name, _ in SCOPES:
        body = json.dumps({"scope": name, "query_embedding": [1.0] * 16, "limit": 1})
        for _ in range(5):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=900)
            connection.request("POST", "/v1/memory/recall", body, {"content-type": "application/json"})
            status = connection.getresponse().status
            if status == 200:
                break
        else:
            sys.exit(f"partition-cutover: a first recall of {name} was answered {status}")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "rows":
        rows(int(arguments[0]), Path(arguments[1]))
    elif command == "load":
        Load(Path(arguments[0]), [int(port) for port in arguments[1:]]).run()
    elif command == "warm":
        warm(int(arguments[0]))
    elif command == "report":
        sys.exit(0 if report(Path(arguments[0])) else 1)
    else:
        sys.exit(f"partition-cutover.py: unknown command {command}")
