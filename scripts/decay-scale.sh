#!/usr/bin/env bash
# Forgetting at size on PostgreSQL, with an HNSW index: fills a scope by COPY, makes a part of its nodes faint and unused, and runs
# salience-decay. Prints which rows were written. Exit code 0 when exactly the budget's number of nodes changed their tier, each
# by one step and as one updated row, no other row of them was written, and vectors and their HNSW index stayed byte for byte;
# 1 otherwise.
#
# Usage: with-postgres scripts/decay-scale.sh AIONIS [NODES]
# AIONIS_TEST_PG_URL names the server, which `with-postgres` starts and tells; its files are read as a superuser.
set -euo pipefail

aionis="$(readlink -f "${1:?usage: with-postgres scripts/decay-scale.sh AIONIS [NODES]}")"
nodes="${2:-100000}"
server="${AIONIS_TEST_PG_URL:?run it through with-postgres, or set AIONIS_TEST_PG_URL}"
for tool in psql python3; do
    command -v "$tool" >/dev/null || { echo "decay-scale: $tool is needed" >&2; exit 2; }
done
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
work="$(mktemp -d)"
database="aionis_decay_$$"
url="$(python3 "$here/consistency-scale.py" url "$server" "$database")"
finish() {
    psql -q "$server" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
sql() { psql -qAt -v ON_ERROR_STOP=1 "$url" "$@"; }

psql -q "$server" -c "CREATE DATABASE $database"
cd "$work"
export DATABASE_URL="$url"
# The first opening makes the schema.
"$aionis" job runs --json >/dev/null
echo "filling $nodes nodes"
python3 "$here/consistency-scale.py" rows "$nodes" "$work"
sql -f "$work/fill.sql"
faint=$((nodes * 3 / 10))
# Of all nodes a fifth may move; three tenths are faint and were not used for 30 days.
budget=$((nodes / 5))
now="$(sql -c "SELECT (extract(epoch FROM now()) * 1000000)::bigint")"
sql -c "UPDATE memory_nodes SET last_activated = $now, salience_at = $now" \
    -c "UPDATE memory_nodes SET last_activated = $now - 30 * 86400000000::bigint, salience = 0.1
        WHERE id IN (SELECT id FROM memory_nodes ORDER BY id LIMIT $faint)" \
    -c "UPDATE memory_vectors SET embedding = (SELECT array_agg(random() - 0.5) FROM generate_series(1, dim) WHERE node_id IS NOT NULL)::vector"
# With vectors that differ; this opening makes the index.
AIONIS_VECTOR_SEARCH=hnsw "$aionis" job runs --json >/dev/null
ann="$(sql -c "SELECT indexrelid::regclass FROM pg_stat_user_indexes WHERE indexrelname LIKE 'memory_vectors_hnsw_%'")"
[ "$(wc -l <<<"$ann")" = 1 ] && [ -n "$ann" ] || { echo "decay-scale: not one HNSW index: $ann" >&2; exit 1; }
sql -c "VACUUM FULL ANALYZE memory_nodes" -c "VACUUM FULL ANALYZE memory_vectors" -c "SELECT pg_stat_reset()" >/dev/null

# What a table's files hold, and where its tiers stand.
bytes() { sql -c CHECKPOINT -c "SELECT md5(pg_read_binary_file(pg_relation_filepath('$1'))), pg_relation_size('$1')"; }
tiers() { sql -F ' ' -c "SELECT tier, count(*) FROM memory_nodes GROUP BY 1 ORDER BY 1" | tr '\n' ' '; }
before_ann="$(bytes "$ann")" before_vectors="$(bytes memory_vectors)" before_tiers="$(tiers)"
for part in "$before_ann" "$before_vectors"; do
    [ -n "$part" ] || { echo "decay-scale: the files of the vectors cannot be read" >&2; exit 1; }
done
indexes_before="$(sql -c "SELECT pg_indexes_size('memory_nodes')")"
AIONIS_VECTOR_SEARCH=hnsw "$aionis" job salience-decay --scope scale --tier-max-daily-mutation-ratio 0.2 --json >"$work/decay.json"
sleep 2 # The figures of a session are in when it has ended.
figures() {
    sql -c "SELECT pg_stat_force_next_flush()" -F ' ' -c "SELECT n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del
        FROM pg_stat_user_tables WHERE relname = '$1'" | sed '/^$/d'
}
problems=0
expect() {
    echo "$1: $3"
    [ "$2" = "$3" ] || { echo "NOT AS IT SHOULD BE: $1 should be: $2"; problems=1; }
}
echo "tiers before: $before_tiers"
expect "tiers after" "hot $((nodes - budget)) warm $budget " "$(tiers)"
expect "memory_nodes (inserted, updated, in place, deleted)" "0 $budget 0 0" "$(figures memory_nodes)"
expect "memory_vectors (inserted, updated, in place, deleted)" "0 0 0 0" "$(figures memory_vectors)"
expect "memory_edges (inserted, updated, in place, deleted)" "0 0 0 0" "$(figures memory_edges)"
expect "the HNSW index $ann (md5, bytes)" "$before_ann" "$(bytes "$ann")"
expect "memory_vectors' rows (md5, bytes)" "$before_vectors" "$(bytes memory_vectors)"
echo "indexes of memory_nodes: $indexes_before bytes before, $(sql -c "SELECT pg_indexes_size('memory_nodes')") after"
python3 -c 'import json,sys; run=json.load(open(sys.argv[1])); print("salience-decay:", json.dumps(run)[:600])' "$work/decay.json"
exit "$problems"
