#!/usr/bin/env bash
# The change from flat to partitioned tables at size, under 50 writes and 50 recalls a second over two servers: every step, the copy and
# a server killed in the middle, the cutover, back and there again, the end, and a purge by truncation. Prints how requests fared in each
# phase, the windows, the checksums of every table, and whether an acknowledged write was lost or stored twice.
# Exit code 0 when no request failed, none was lost or doubled, and every comparison and chain holds; 1 otherwise.
#
# Usage: with-postgres scripts/partition-cutover.sh AIONIS [NODES]
# AIONIS_TEST_PG_URL names the server, which `with-postgres` starts and tells.
set -euo pipefail

aionis="$(readlink -f "${1:?usage: with-postgres scripts/partition-cutover.sh AIONIS [NODES]}")"
nodes="${2:-100000}"
server="${AIONIS_TEST_PG_URL:?run it through with-postgres, or set AIONIS_TEST_PG_URL}"
for tool in psql python3; do
    command -v "$tool" >/dev/null || { echo "partition-cutover: $tool is needed" >&2; exit 2; }
done
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
work="$(mktemp -d)"
database="aionis_cutover_$$"
url="$(python3 "$here/consistency-scale.py" url "$server" "$database")"
declare -a servers=()
finish() {
    touch "$work/stop"
    for pid in "${servers[@]}" ${load:-}; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    psql -q "$server" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" >/dev/null 2>&1 || true
    [ "${KEEP:-}" ] && echo "kept: $work" || rm -rf "$work"
}
trap finish EXIT

export DATABASE_URL="$url" EMBEDDING_PROVIDER=none AIONIS_DB_STATEMENT_TIMEOUT_MS=900000 RUST_LOG=warn
phase() { printf '%s\t%s\n' "$1" "$(date +%s.%N)" >>"$work/phases"; echo "-- $1"; }
step() { "$aionis" partition "$@"; }

# A server on a free port; its number is the name of its files.
serve() {
    "$aionis" serve --host 127.0.0.1 --port 0 --port-file "$work/port.$1" --data-dir "$work/data.$1" >"$work/server.$1.log" 2>&1 &
    servers[$1]=$!
    for _ in $(seq 1200); do [ -s "$work/port.$1" ] && break; sleep 0.1; done
    [ -s "$work/port.$1" ] && python3 "$here/partition-cutover.py" warm "$(cat "$work/port.$1")" && return
    echo "partition-cutover: server $1 does not start:" >&2
    cat "$work/server.$1.log" >&2
    exit 1
}
ports() { for file in "$@"; do printf '%s ' "$(cat "$file")"; done >"$work/ports.new"; mv "$work/ports.new" "$work/ports"; }

psql -q "$server" -c "CREATE DATABASE $database"
"$aionis" migrate
echo "filling $nodes nodes"
python3 "$here/partition-cutover.py" rows "$nodes" "$work"
for fill in "$work"/*/fill.sql; do psql -q "$url" -v ON_ERROR_STOP=1 -f "$fill"; done
psql -q "$url" -c "VACUUM ANALYZE"
cd "$work"
serve 0
serve 1
ports "$work/port.0" "$work/port.1"
python3 "$here/partition-cutover.py" load "$work" "$(cat "$work/port.0")" "$(cat "$work/port.1")" &
load=$!
phase "before"
sleep 10

phase "plan, ensure"
step plan --own-from-rows $((nodes / 2))
step ensure --own-from-rows $((nodes / 2))
phase "backfill, killed"
# Killed three times: right away, and where a part is copied.
for wait in 1 3 5; do
    "$aionis" partition backfill --batch-size 1000 --pace-ms 500 >/dev/null 2>&1 &
    copying=$!
    sleep "$wait"
    kill -9 "$copying" 2>/dev/null || true
    wait "$copying" 2>/dev/null || true
done
step status --events 3
phase "server killed, backfill"
ports "$work/port.1"
kill -9 "${servers[0]}"
rm -f "$work/port.0"
step backfill --batch-size 5000
serve 0
ports "$work/port.0" "$work/port.1"
phase "verify, gap"
step verify
step gap
phase "shadow reads, readiness"
step shadow-read
step readiness --out-dir "$work/readiness"
phase "cutover"
step cutover
phase "after the cutover"
sleep 5
step verify
phase "rollback"
step rollback
phase "readiness again"
step verify >/dev/null
step readiness --out-dir "$work/readiness2" >/dev/null
phase "cutover again"
step cutover
phase "finalize"
step finalize
phase "promote perf_1"
step promote-scope --tenant default --scope perf_1
phase "after"
sleep 10
phase "end"
touch "$work/stop"
wait "$load"
load=""
for n in 0 1; do kill "${servers[$n]}"; wait "${servers[$n]}" || true; done
psql -qAt -F $'\t' "$url" -c "SELECT scope_key, client_id FROM memory_nodes WHERE client_id LIKE 'load-%'" >"$work/stored.tsv"
psql -qAt "$url" -c "SELECT count(*) FROM (SELECT 1 FROM memory_nodes GROUP BY scope_key, id HAVING count(*) > 1) d" >"$work/doubled"
"$aionis" verify
"$aionis" job consistency-check --all --check-set all --strict >"$work/consistency" || { cat "$work/consistency"; false; }
count() { psql -qAt "$url" -c "SELECT count(*) FROM memory_nodes WHERE scope_key = 'default/$1'"; }
before="$(count perfX1)"
plan="$("$aionis" job scope-purge --tenant default --scope perf_1 --fail-on-delete --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["targets"][0]["plan_hash"])')"
began="$(date +%s%N)"
"$aionis" job scope-purge --tenant default --scope perf_1 --fail-on-delete --apply --plan "$plan"
echo "purge of perf_1 took $((($(date +%s%N) - began) / 1000000)) ms with the start of the program; perf_1 has $(count perf_1) nodes, perfX1 $before before and $(count perfX1) after"
[ "$(count perf_1)" = 0 ] && [ "$(count perfX1)" = "$before" ]
python3 "$here/partition-cutover.py" report "$work"
