#!/usr/bin/env bash
# Fuzzes the HTTP interface with schemathesis, by its own OpenAPI document: starts a server on a free port with an empty
# data directory and the deterministic provider, sends generated requests for so many seconds, stops the server.
# Exit code: 0 nothing found, 1 findings (they are printed), 2 the fuzzer or the server could not run.
#
# Usage: scripts/fuzz-http.sh AIONIS [SECONDS]
#   FUZZ_SEED    seed of the generated requests, for repeating a run
#   PYTHON       interpreter the fuzzer is installed for; default python3
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
aionis="${1:?usage: scripts/fuzz-http.sh AIONIS [SECONDS]}"
seconds="${2:-600}"
python="${PYTHON:-python3}"
venv="$root/target/fuzz-http"
requirements="$root/scripts/fuzz-http.requirements.txt"

if ! [[ "$seconds" =~ ^[1-9][0-9]*$ ]]; then
    echo "fuzz-http: SECONDS must be a whole number from 1, got '$seconds'" >&2
    exit 2
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "fuzz-http: $python has to be Python 3.11 or newer; PYTHON names another one" >&2; exit 2; }
# Installed again when the pinned versions change.
if ! cmp -s "$requirements" "$venv/installed.txt"; then
    rm -rf "$venv"
    "$python" -m venv "$venv" || { echo "fuzz-http: $python cannot make a virtual environment" >&2; exit 2; }
    "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
        -r "$requirements" ||
        { echo "fuzz-http: the fuzzer could not be installed" >&2; exit 2; }
    cp "$requirements" "$venv/installed.txt"
fi

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

EMBEDDING_PROVIDER=fake "$aionis" serve --data-dir "$work/data" --host 127.0.0.1 --port 0 --port-file "$work/port" \
    >"$work/log" 2>&1 </dev/null &
server=$!
for _ in $(seq 200); do
    [ -s "$work/port" ] && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
if ! [ -s "$work/port" ]; then
    echo "fuzz-http: the server did not start:" >&2
    tail -n 5 "$work/log" >&2
    exit 2
fi

# What the examples of the document name, so that requests get past the look-up of what is not there.
"$venv/bin/python" - "http://127.0.0.1:$(cat "$work/port")/v1/memory/write" <<'PYTHON'
import json
import sys
import urllib.request

nodes = [
    {"client_id": "rule-1", "type": "rule", "slots": {"if": {}, "then": {"tool": {"prefer": ["psql"]}}}},
    {"client_id": "note-1", "type": "event", "text_summary": "The guest cannot eat peanuts."},
    {"client_id": "guest-4", "type": "entity", "title": "Table 4 guest"},
]
body = {"tenant_id": "default", "scope": "demo", "input_text": "before", "memory_lane": "shared", "nodes": nodes}
headers = {"content-type": "application/json"}
urllib.request.urlopen(urllib.request.Request(sys.argv[1], json.dumps(body).encode(), headers), timeout=30)
PYTHON

# Left out: positive_data_acceptance (what names nothing stored is refused rightly), unsupported_method and
# allow_header_conformance (another method is 404 here, as the wire contract has it), checks that need credentials.
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance
checks+=,response_schema_conformance,negative_data_rejection,missing_required_header
verdict=0
(
    cd "$work"
    exec "$venv/bin/schemathesis" --config-file "$root/scripts/fuzz-http.toml" \
        run "http://127.0.0.1:$(cat port)/openapi.json" \
        --checks "$checks" --max-time "$seconds" --phases examples,coverage,fuzzing --workers 1 \
        --continue-on-failure ${FUZZ_SEED:+--seed "$FUZZ_SEED"}
) || verdict=$?

if ! kill -0 "$server" 2>/dev/null; then
    echo 'fuzz-http: the server stopped while it was fuzzed:' >&2
    tail -n 5 "$work/log" >&2
    exit 1
fi
case "$verdict" in
    0) echo "fuzz-http: nothing found in $seconds s" ;;
    1) exit 1 ;;
    *) exit 2 ;;
esac
