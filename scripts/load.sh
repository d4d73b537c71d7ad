#!/usr/bin/env bash
# Mixed load above what the gates let in: a noisy tenant at twice the measured capacity and a quiet one at a twentieth of
# it, recalls and writes at once, against a server of its own with small gates. Prints what each tenant got and how memory
# went; exit code 0 when nothing failed with a 5xx, the quiet tenant was served, the p95 of what was admitted is at most
# twice that of the same mix without waiting, and memory is bounded; 1 otherwise.
#
# Usage: scripts/load.sh AIONIS [SECONDS]
set -euo pipefail

aionis="$(readlink -f "${1:?usage: scripts/load.sh AIONIS [SECONDS]}")"
seconds="${2:-600}"
command -v python3 >/dev/null || { echo "load: python3 is needed for the report" >&2; exit 2; }
work="$(mktemp -d)"
server=
stop() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap stop EXIT

# One recall and one write at work, one of each waiting: who is admitted waits for one other request at most, however many
# ask. The server has a processor of its own and so have those who ask, before and under load; a generator that takes the
# server's time measures itself.
places=1
queue=1
on_first= on_second=
if command -v taskset >/dev/null && [ "$(nproc)" -ge 2 ]; then
    on_first="taskset -c 0" on_second="taskset -c 1"
else
    echo "load: one processor for server and generators, or no taskset: latencies are those of both" >&2
fi
AIONIS_DATA_DIR="$work/data" EMBEDDING_PROVIDER=fake EMBEDDING_DIM=384 RUST_LOG=warn \
    API_RECALL_MAX_INFLIGHT="$places" API_RECALL_QUEUE_MAX="$queue" API_WRITE_MAX_INFLIGHT="$places" API_WRITE_QUEUE_MAX="$queue" \
    $on_first "$aionis" serve --port 0 --port-file "$work/port" >"$work/server.log" 2>&1 &
server=$!
for _ in $(seq 100); do
    [ -s "$work/port" ] && break
    kill -0 "$server" 2>/dev/null || { cat "$work/server.log" >&2; exit 2; }
    sleep 0.1
done
$on_second python3 "$(dirname "${BASH_SOURCE[0]}")/load.py" "$aionis" "http://127.0.0.1:$(cat "$work/port")" "$server" "$seconds" "$places"
