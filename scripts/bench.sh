#!/usr/bin/env bash
# Starts a server of its own on a free port with an empty data directory, runs `aionis bench` against it with the
# arguments given, stops it.
#
# Usage: scripts/bench.sh AIONIS [BENCH ARGUMENTS…]
#   AIONIS_MODEL_DIR  the model; default .models/potion-base-8M in the repository
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
aionis="${1:?usage: scripts/bench.sh AIONIS [BENCH ARGUMENTS…]}"
shift
model_dir="${AIONIS_MODEL_DIR:-$root/.models/potion-base-8M}"

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

"$aionis" serve --data-dir "$work/data" --model-dir "$model_dir" --host 127.0.0.1 --port 0 --port-file "$work/port" \
    >"$work/log" 2>&1 </dev/null &
server=$!
for _ in $(seq 200); do
    [ -s "$work/port" ] && break
    if ! kill -0 "$server" 2>/dev/null; then
        break
    fi
    sleep 0.1
done
if ! [ -s "$work/port" ]; then
    echo "bench: the server did not start:" >&2
    tail -n 5 "$work/log" >&2
    exit 1
fi
"$aionis" bench --url "http://127.0.0.1:$(cat "$work/port")" --server-pid "$server" "$@"
