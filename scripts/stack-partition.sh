#!/usr/bin/env bash
# Prepares the compose stack's database for the partitioned layout while it serves: twins, mirror, copy, comparison, and the
# checks of readiness, from a container within its network. Nothing is exchanged; `gate core --require-partition-ready true`
# judges it from then on, and `cutover` does the rest (docs/PARTITION_CUTOVER.md).
# The evidence of readiness is in artifacts/partition_cutover/<run id>. Exit code 0 ready, 2 not, 1 could not run.
#
# Usage: scripts/stack-partition.sh [ENV_FILE] [cutover | finalize]
#   COMPOSE   the compose command; default docker compose
#   cutover   makes the exchange too; finalize ends it, too, and gives the benchmark's scope of the gate (gate_bench of the tenant
#             default) partitions of its own
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
env_file="${1:-.env.stack}"
until="${2:-readiness}"
case "$until" in
    readiness | cutover | finalize) ;;
    *) echo "stack-partition: the second argument is cutover or finalize, or left out" >&2; exit 1 ;;
esac
read -ra compose <<<"${COMPOSE:-docker compose}"
run_id="$(date -u +%Y%m%d_%H%M%S)"
out="artifacts/partition_cutover/$run_id"
mkdir -p "$out"
# The program runs as a user of its own in the container, and writes nowhere else.
chmod 0777 "$out"
step() { "${compose[@]}" --env-file "$env_file" run --rm --no-deps -T -v "$PWD/$out:/evidence" worker partition "$@"; }

step plan
step ensure
step backfill
step verify
step gap
step shadow-read
step readiness --run-id "$run_id" --out-dir /evidence/readiness
[ "$until" != readiness ] || exit 0
step cutover
step verify
[ "$until" != cutover ] || exit 0
step finalize
step promote-scope --tenant default --scope gate_bench
