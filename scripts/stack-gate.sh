#!/usr/bin/env bash
# Runs the release gate against the compose stack, from a container within its network: the database is not published.
# artifacts/core_gate/<run id>/summary.json says whether to release. Exit code of the gate: 0 pass, 2 not, 1 could not run.
#
# Usage: scripts/stack-gate.sh [ENV_FILE] [gate arguments…], such as --scope SCOPE: by default the scope `default` is judged,
# and one with nothing in it lets nobody through.
#   COMPOSE        the compose command; default docker compose
#   STACK_API_URL  address of the API within the network; default http://api:3001
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
env_file="${1:-.env.stack}"
[ "$#" = 0 ] || shift
run_id="$(date -u +%Y%m%d_%H%M%S)"
out="artifacts/core_gate/$run_id"
mkdir -p "$out"
# The program runs as a user of its own in the container, and writes nowhere else.
chmod 0777 "$out"
API_KEY="$(sed -n 's/^AIONIS_API_KEY=//p' "$env_file")"
export API_KEY
read -ra compose <<<"${COMPOSE:-docker compose}"
exec "${compose[@]}" --env-file "$env_file" run --rm --no-deps -T -v "$PWD/$out:/gate" -e API_KEY worker \
    gate core --base-url "${STACK_API_URL:-http://api:3001}" --out-dir /gate "$@"
