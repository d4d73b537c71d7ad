#!/usr/bin/env bash
# Mixed load above what the gates let in: a noisy tenant at twice the measured capacity and a quiet one at a twentieth of
# it, recalls and writes at once, against a server of its own with small gates. Prints what each tenant got and how memory
# went; exit code 0 when nothing failed with a 5xx, the quiet tenant was served, the p95 of what was admitted is at most
# twice that of the same mix without waiting, and memory is bounded; 1 otherwise.
#
# With DATABASE_URL, a database of its own: the server works on PostgreSQL, every packet to and from it LOAD_DELAY_MS (2)
# late, as on a network. Then the gates are what is scarce, and the latencies are theirs. Without it the server works on the
# embedded engine, and what is scarce are this machine's processors, which the generators use too: read them so.
#
# Usage: [DATABASE_URL=…] scripts/load.sh AIONIS [SECONDS]
set -euo pipefail

aionis="$(readlink -f "${1:?usage: scripts/load.sh AIONIS [SECONDS]}")"
seconds="${2:-600}"
here="$(dirname "${BASH_SOURCE[0]}")"
command -v python3 >/dev/null || { echo "load: python3 is needed for the report" >&2; exit 2; }
work="$(mktemp -d)"
server= proxy=
stop() {
    for process in $server $proxy; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap stop EXIT
appears() {
    for _ in $(seq 100); do
        [ -s "$1" ] && return
        kill -0 "$2" 2>/dev/null || { cat "$3" >&2; exit 2; }
        sleep 0.1
    done
    echo "load: $1 did not appear" >&2
    exit 2
}

if [ -n "${DATABASE_URL:-}" ]; then
    python3 "$here/delay.py" "$DATABASE_URL" "${LOAD_DELAY_MS:-2}" "$work/url" 2>"$work/proxy.log" &
    proxy=$!
    appears "$work/url" "$proxy" "$work/proxy.log"
    DATABASE_URL="$(cat "$work/url")"
    export DATABASE_URL
fi
# Two at work and one waiting, of recalls and of writes each: who is admitted waits for half of another request.
places=2
queue=1
AIONIS_DATA_DIR="$work/data" EMBEDDING_PROVIDER=fake EMBEDDING_DIM=384 RUST_LOG=warn \
    API_RECALL_MAX_INFLIGHT="$places" API_RECALL_QUEUE_MAX="$queue" API_WRITE_MAX_INFLIGHT="$places" API_WRITE_QUEUE_MAX="$queue" \
    "$aionis" serve --port 0 --port-file "$work/port" >"$work/server.log" 2>&1 &
server=$!
appears "$work/port" "$server" "$work/server.log"
python3 "$here/load.py" "$aionis" "http://127.0.0.1:$(cat "$work/port")" "$server" "$seconds" "$places"
