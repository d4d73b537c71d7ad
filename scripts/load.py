"""What scripts/load.sh does once its server listens: calibrate, load, report."""

import json
import subprocess
import sys
import threading
import time
import urllib.request

AIONIS, URL, PID, SECONDS = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
NODES = 2_000
PLACES = int(sys.argv[5])
CALIBRATION_S = 10
QUIET_SHARE = 0.05
P95_RATIO_MAX = 2.0
MEMORY_GROWTH_MAX_MIB = 256


def bench(tenant, operation, duration, **more):
    flags = {"tenant": tenant, "scope": "load", "operations": operation, "duration-s": duration, "warmup-s": 1}
    flags |= {"nodes": 0, "timeout-s": 20, "drain-timeout-s": 60, "max-requests": 20_000_000} | {k.replace("_", "-"): v for k, v in more.items()}
    command = [AIONIS, "bench", "--url", URL, "--json"]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    out, err = process.communicate()
    if process.returncode != 0 and not out.strip():
        sys.exit(f"load: bench failed: {err.strip()}")
    return json.loads(out)["runs"][0]


def both(duration, recalls, writes):
    """Recalls and writes at once."""
    processes = [bench(*args, duration, **more) for args, more in recalls + writes]
    return [result(process) for process in processes]


def resident_mib():
    with open(f"/proc/{PID}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


def failures():
    """Answers with a status of 500 and above, from the service's own count."""
    with urllib.request.urlopen(f"{URL}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("aionis_http_requests_total{") and 'status="5' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in counted)


def watch(samples, done):
    while not done.wait(5):
        samples.append(resident_mib())


def row(name, run):
    latency = run["latency"] or {}
    shown = " ".join(f"{q}={latency[f'{q}_us'] / 1e3:.1f}ms" for q in ("p50", "p95", "p99") if latency)
    refused = run["requests"] - run["ok"]
    print(f"{name:22} ok {run['throughput_per_s']:8.1f}/s  asked {run['requests']:9}  not ok {refused:9}  {shown}", flush=True)


def main():
    for tenant in ("noisy", "quiet"):
        result(bench(tenant, "recall-text", 1, nodes=NODES, concurrency=1))
    closed = lambda tenant, operation, n: ((tenant, operation), {"concurrency": n})
    alone = [result(bench("quiet", operation, CALIBRATION_S, concurrency=1)) for operation in ("recall-text", "write-1")]
    full = both(CALIBRATION_S, [closed("noisy", "recall-text", PLACES)], [closed("noisy", "write-1", PLACES)])
    for name, run in zip(("alone: recall", "alone: write", "at capacity: recall", "at capacity: write"), alone + full):
        row(name, run)
    rates = [run["throughput_per_s"] for run in full]
    opened = lambda tenant, operation, rate: ((tenant, operation), {"mode": "open", "rate": round(rate, 1), "max_in_flight": 64})
    samples, done = [resident_mib()], threading.Event()
    watcher = threading.Thread(target=watch, args=(samples, done))
    watcher.start()
    started = time.monotonic()
    loaded = both(
        SECONDS,
        [opened("noisy", "recall-text", 2 * rates[0]), opened("quiet", "recall-text", QUIET_SHARE * rates[0])],
        [opened("noisy", "write-1", 2 * rates[1]), opened("quiet", "write-1", QUIET_SHARE * rates[1])],
    )
    done.set()
    watcher.join()
    print(f"loaded for {time.monotonic() - started:.0f} s")
    for name, run in zip(("noisy recall", "quiet recall", "noisy write", "quiet write"), loaded):
        row(name, run)
    middle = len(samples) // 2
    early, late = max(samples[: middle + 1]), max(samples[middle:])
    print(f"memory: {samples[0]:.0f} MiB before, {early:.0f} MiB at most in the first half, {late:.0f} in the second")
    failed = failures()
    print(f"answers of 500 and above: {failed:.0f}")
    slow = []
    for at, name in enumerate(("noisy recall", "quiet recall", "noisy write", "quiet write")):
        ratios = [loaded[at]["latency"]["p95_us"] / run["latency"]["p95_us"] for run in (alone[at // 2], full[at // 2])]
        print(f"p95 {name}: {ratios[0]:.2f} times that of one client alone, {ratios[1]:.2f} times that of the same mix without waiting")
        if ratios[1] > P95_RATIO_MAX:
            slow.append(name)
    served = [loaded[at]["ok"] / max(loaded[at]["requests"], 1) for at in (1, 3)]
    problems = []
    if failed:
        problems.append("answers of 500 and above")
    if min(served) < 0.99:
        problems.append(f"the quiet tenant was refused: {served}")
    if slow:
        problems.append(f"slower than {P95_RATIO_MAX} times the mix without waiting: {', '.join(slow)}")
    if late > early + MEMORY_GROWTH_MAX_MIB:
        problems.append("memory grows")
    print("; ".join(problems) or "sound")
    sys.exit(1 if problems else 0)


main()
