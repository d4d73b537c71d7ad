#!/usr/bin/env bash
# Measures consolidation: 10,000 nodes with 500 planted duplicates are searched, merged, their edges moved, and all of it is taken
# back. Prints precision, recall, counts and times as JSON; fails when a count does not add up or the undo differs by a byte.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${CARGO:-cargo}" test --release --locked -p aionis-engine --lib -- \
  --ignored --nocapture planted_duplicates_are_found_merged_and_taken_back
