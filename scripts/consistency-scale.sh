#!/usr/bin/env bash
# Consistency checks at size on PostgreSQL: fills a scope with consistent rows by COPY, runs all checks in full and in fast mode,
# and next to them the reference's way, one count per check. Prints times and how often each table was read as a whole.
# Exit code 0 when the checks pass, no table is read as a whole, every row is read at most once per table in full mode, and
# fast mode takes at most a twentieth of full mode; 1 otherwise.
#
# Usage: with-postgres scripts/consistency-scale.sh AIONIS [NODES]
# AIONIS_TEST_PG_URL names the server, which `with-postgres` starts and tells.
set -euo pipefail

aionis="$(readlink -f "${1:?usage: with-postgres scripts/consistency-scale.sh AIONIS [NODES]}")"
nodes="${2:-100000}"
server="${AIONIS_TEST_PG_URL:?run it through with-postgres, or set AIONIS_TEST_PG_URL}"
for tool in psql python3; do
    command -v "$tool" >/dev/null || { echo "consistency-scale: $tool is needed" >&2; exit 2; }
done
here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
work="$(mktemp -d)"
database="aionis_scale_$$"
url="$(python3 "$here/consistency-scale.py" url "$server" "$database")"
finish() {
    psql -q "$server" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

psql -q "$server" -c "CREATE DATABASE $database"
cd "$work"
# The first opening makes the schema.
DATABASE_URL="$url" "$aionis" job runs --json >/dev/null
echo "filling $nodes nodes"
python3 "$here/consistency-scale.py" rows "$nodes" "$work"
psql -q "$url" -v ON_ERROR_STOP=1 -f "$work/fill.sql"
psql -q "$url" -c "VACUUM ANALYZE"

# What the tables have been read so far: as a whole, and rows by an index. The figures of a session are in when it has ended.
figures() {
    psql -qAt -F ' ' "$url" -c "SELECT pg_stat_force_next_flush()" -c "SELECT relname, coalesce(seq_scan, 0), coalesce(seq_tup_read, 0), \
        coalesce(idx_scan, 0), coalesce(idx_tup_fetch, 0), n_live_tup FROM pg_stat_user_tables WHERE relname LIKE 'memory_%' ORDER BY 1" |
        sed '/^$/d' >"$work/$1.figures"
}
run() {
    figures "$1.before"
    DATABASE_URL="$url" "$aionis" job consistency-check --scope scale --check-set all --mode "$1" --json >"$work/$1.json" || true
    sleep 2
    figures "$1.after"
}
run full
run fast
figures reference.before
psql -qAt "$url" -v ON_ERROR_STOP=1 -c '\timing on' -f "$here/consistency-reference.sql" >"$work/reference.out"
figures reference.after
python3 "$here/consistency-scale.py" report "$work"
