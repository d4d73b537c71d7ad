#!/usr/bin/env bash
# Rehearses the compose stack: it comes up healthy, its demo works and can fail, its worker stays up under load, what is killed
# heals, a worker that stands still is found, SIGTERM ends it in order. Prints a line per check and writes
# artifacts/stack_rehearsal/<run id>/summary.json. Exit code 0 when all checks hold, 2 when one does not, 1 when it cannot run.
#
# Usage: scripts/stack-rehearsal.sh AIONIS [MINUTES]
#   AIONIS              the program, for the demo and the load; its image has to be built (scripts/image-prebuilt.sh)
#   MINUTES             how long the load lasts; default 10
#   COMPOSE             the compose command; default docker compose
#   DOCKER              the docker client; default docker
#   COMPOSE_OVERLAY     a further compose file, such as deploy/rehearsal/compose.host.yml
#   STACK_IMAGE_OWNER, STACK_IMAGE_TAG   which image; default local--build, local
#
# On a machine where no image can be pulled, in an engine of its own (see scripts/stack-bed.sh):
#   scripts/stack-bed.sh up
#   DOCKER_HOST=unix://$PWD/target/stack-bed/docker.sock scripts/image-prebuilt.sh target/release/aionis \
#     ghcr.io/local--build/aionis:local --network none
#   DOCKER_HOST=unix://$PWD/target/stack-bed/docker.sock COMPOSE=docker-compose \
#     COMPOSE_OVERLAY=deploy/rehearsal/compose.host.yml scripts/stack-bed.sh run scripts/stack-rehearsal.sh target/release/aionis
set -euo pipefail

aionis="$(readlink -f "${1:?usage: scripts/stack-rehearsal.sh AIONIS [MINUTES]}")"
minutes="${2:-10}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v python3 >/dev/null || { echo "stack-rehearsal: python3 is needed for the summary" >&2; exit 1; }
run_id="$(date -u +%Y%m%d_%H%M%S)"
out="artifacts/stack_rehearsal/$run_id"
mkdir -p "$out"
scripts/stack-env.sh "$out/stack.env" 2>/dev/null
# Anything else would be another project's containers and volumes.
project="aionis-rehearsal"
read -ra compose_command <<<"${COMPOSE:-docker compose}"
files=(-f docker-compose.yml)
if [ -n "${COMPOSE_OVERLAY:-}" ]; then files+=(-f "$COMPOSE_OVERLAY"); fi
compose() { "${compose_command[@]}" -p "$project" --env-file "$out/stack.env" "${files[@]}" "$@"; }
docker() { command "${DOCKER:-docker}" "$@"; }
port="${STACK_PORT:-3001}"
AIONIS_API_KEY="$(sed -n 's/^AIONIS_API_KEY=//p' "$out/stack.env")"
export AIONIS_API_KEY

load_pids=()
finish() {
    for pid in "${load_pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    compose logs --no-color >"$out/compose.log" 2>&1 || true
    compose down -v --remove-orphans >/dev/null 2>&1 || true
}
trap finish EXIT

failed=0
check() { # name, verdict (0 holds), what was seen
    local word=ok
    if [ "$2" != 0 ]; then word=FAILED failed=1; fi
    printf '%-6s %s: %s\n' "$word" "$1" "$3"
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$out/checks.tsv"
}
now_ms() { date +%s%3N; }
id_of() { compose ps -a -q "$1"; }
state() { docker inspect -f "$2" "$(id_of "$1")"; }
health() { state "$1" '{{.State.Status}}/{{if .State.Health}}{{.State.Health.Status}}{{end}}'; }
# Waits until a service's state is as said; tells how long it took, or what it is instead.
becomes() { # service, wanted, seconds
    local started seen
    started="$(now_ms)"
    while :; do
        seen="$(health "$1")"
        [ "$seen" = "$2" ] && { echo "$(($(now_ms) - started)) ms"; return 0; }
        [ "$(($(now_ms) - started))" -gt "$(($3 * 1000))" ] && { echo "still $seen after $3 s"; return 1; }
        sleep 0.2
    done
}
expect_state() { # check, service, wanted, seconds
    local seen verdict=0
    seen="$(becomes "$2" "$3" "$4")" || verdict=1
    check "$1" "$verdict" "$seen"
}
quickstart() { # check, wanted exit code, seconds for vectors
    local code=0
    "$aionis" quickstart --stack --base-url "http://127.0.0.1:$port" --vectors-wait-s "$3" --result-file "$out/$1.json" \
        >"$out/$1.log" 2>&1 || code=$?
    check "$1" "$([ "$code" = "$2" ]; echo $?)" "exit $code, expected $2"
}

# --- it comes up
started="$(now_ms)"
code=0
compose up -d --wait db api worker >"$out/up.log" 2>&1 || code=$?
check up "$code" "$(($(now_ms) - started)) ms"
[ "$code" = 0 ] || tail -n 20 "$out/up.log" >&2
for service in db api worker; do
    seen="$(health "$service")"
    check "healthy_$service" "$([ "$seen" = running/healthy ]; echo $?)" "$seen"
done
seen="$(state migrate '{{.State.Status}}/{{.State.ExitCode}}')"
check migrated "$([ "$seen" = exited/0 ]; echo $?)" "$seen"
command_of() { state "$1" '{{.Path}} {{join .Args " "}}'; }
for service in api worker migrate; do
    seen="$(command_of "$service")"
    case "$seen" in aionis\ *) verdict=0 ;; *) verdict=1 ;; esac
    check "command_$service" "$verdict" "$seen"
done
seen="$(docker exec "$(id_of worker)" id -u)"
check not_root "$([ "$seen" = 10001 ]; echo $?)" "uid $seen"
superuser="$(docker exec "$(id_of db)" psql -qAt -h /tmp -U postgres -d aionis -c \
    "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = 'aionis'" 2>/dev/null ||
    docker exec "$(id_of db)" psql -qAt -U postgres -d aionis -c \
        "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = 'aionis'")"
check database_user_is_no_superuser "$([ "$superuser" = f ]; echo $?)" "superuser $superuser"
quickstart quickstart_works 0 60

# --- the worker stays up under load
restarts() { state "$1" '{{.RestartCount}}'; }
bench() {
    "$aionis" bench --url "http://127.0.0.1:$port" --operations "$1" --rate "$2" --nodes "$3" --duration-s "$((minutes * 60))" \
        --json >"$out/load_$1.json" 2>"$out/load_$1.log"
}
worker_id="$(id_of worker)"
worker_started="$(state worker '{{.State.StartedAt}}')"
bench write-1 10 200 &
load_pids+=($!)
bench recall-text 10 2000 &
load_pids+=($!)
unhealthy=0 samples=0
while kill -0 "${load_pids[0]}" 2>/dev/null || kill -0 "${load_pids[1]}" 2>/dev/null; do
    samples=$((samples + 1))
    for service in db api worker; do
        seen="$(health "$service")"
        if [ "$seen" != running/healthy ]; then
            unhealthy=$((unhealthy + 1))
            echo "$(date -u +%T) $service $seen" >>"$out/unhealthy.log"
        fi
    done
    sleep 2
done
for pid in "${load_pids[@]}"; do
    code=0
    wait "$pid" || code=$?
    check "load_ended_$pid" "$code" "exit $code"
done
load_pids=()
# Who is refused (429) on a machine that has no room is told so; anything else is a failure.
for operation in write-1 recall-text; do
    code=0
    seen="$(python3 -c 'import json, sys
run = json.load(open(sys.argv[1]))["runs"][0]
refused = run["errors_by_status"].get("429", 0)
failed = run["requests"] - run["ok"] - refused
print(run["ok"], "answered,", refused, "refused,", failed, "failed of", run["requests"])
sys.exit(failed > 0 or not run["ok"])' "$out/load_$operation.json")" || code=$?
    check "answered_$operation" "$code" "$seen"
done
check healthy_under_load "$([ "$unhealthy" = 0 ]; echo $?)" "$samples looks over $minutes min, $unhealthy not healthy"
seen="$(restarts worker) restarts, same container and start: $([ "$(id_of worker)" = "$worker_id" ] &&
    [ "$(state worker '{{.State.StartedAt}}')" = "$worker_started" ] && echo yes || echo no)"
check worker_never_restarted "$([ "$seen" = "0 restarts, same container and start: yes" ]; echo $?)" "$seen"
starts="$(compose logs --no-color worker 2>/dev/null | grep -c 'worker started' || true)"
check worker_started_once "$([ "$starts" = 1 ]; echo $?)" "$starts starts in its log"

# --- a worker that stands still is found, without its end
pid_of() { state "$1" '{{.State.Pid}}'; }
kill -STOP "$(pid_of worker)"
expect_state stalled_worker_is_unhealthy worker running/unhealthy 90
kill -CONT "$(pid_of worker)"
expect_state worker_goes_on worker running/healthy 60

# --- the demo fails when nobody derives vectors
compose stop worker >/dev/null 2>&1
seen="$(state worker '{{.State.ExitCode}}')"
check worker_ends_in_order "$([ "$seen" = 0 ]; echo $?)" "exit $seen after SIGTERM"
quickstart quickstart_fails_without_worker 2 5
compose start worker >/dev/null 2>&1
expect_state worker_is_back worker running/healthy 60

# --- what is killed heals
for service in worker api db; do
    before="$(restarts "$service")"
    kill -9 "$(pid_of "$service")"
    started="$(now_ms)"
    while [ "$(restarts "$service")" = "$before" ] && [ "$(($(now_ms) - started))" -lt 60000 ]; do sleep 0.1; done
    expect_state "killed_${service}_heals" "$service" running/healthy 120
done
# The others have to find the new database by themselves.
for service in api worker; do
    before="$(restarts "$service")"
    expect_state "${service}_finds_the_database" "$service" running/healthy 120
    check "${service}_was_not_restarted_for_it" "$([ "$(restarts "$service")" = "$before" ]; echo $?)" "$before restarts"
done
quickstart quickstart_works_afterwards 0 60

# --- the end
compose stop api worker >/dev/null 2>&1
for service in api worker; do
    seen="$(state "$service" '{{.State.ExitCode}}')"
    check "${service}_ends_in_order" "$([ "$seen" = 0 ]; echo $?)" "exit $seen after SIGTERM"
done

python3 - "$out" "$run_id" "$minutes" <<'PY'
import json, pathlib, sys
out, run_id, minutes = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rows = [line.split("\t") for line in (out / "checks.tsv").read_text().splitlines()]
checks = [{"name": name, "ok": verdict == "0", "seen": seen} for name, verdict, seen in rows]
ok = bool(checks) and all(check["ok"] for check in checks)
summary = {"ok": ok, "run_id": run_id, "load_minutes": minutes, "checks": checks,
           "fail_reasons": [check["name"] for check in checks if not check["ok"]]}
(out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
PY
echo "stack-rehearsal: $out/summary.json"
[ "$failed" = 0 ] || exit 2
