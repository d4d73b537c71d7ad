#!/bin/sh
# Writes what the program says about its interface into docs/: refresh-docs.sh path-of-aionis
set -eu
cd "$(dirname "$0")/.."
bin=${1:?usage: scripts/refresh-docs.sh path-of-aionis}
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

"$bin" openapi > "$new/openapi.json"
"$bin" openapi --error-table > "$new/table.md"
# The part of http.md between the marks becomes the table.
awk -v table="$new/table.md" '
  /^<!-- error codes: end -->$/ { inside = 0; ended = 1 }
  !inside { print }
  /^<!-- error codes: begin/ { inside = 1; while ((getline line < table) > 0) print line }
  END { if (!ended || inside) { print "docs/http.md has no marks for the error codes" > "/dev/stderr"; exit 1 } }
' docs/http.md > "$new/http.md"
mv "$new/openapi.json" docs/openapi.json
mv "$new/http.md" docs/http.md
