#!/usr/bin/env bash
# Writes the secrets of the compose stack, made by chance, into .env.stack (mode 600) unless it is there.
#
# Usage: scripts/stack-env.sh [FILE]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
file="${1:-.env.stack}"
if [ -e "$file" ]; then
    echo "stack-env: $file is there and stays as it is" >&2
    exit 0
fi
# Hexadecimal, because a password stands in an address and in a file that several programs read.
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
key="$(secret)"
umask 077
cat >"$file.tmp" <<END
POSTGRES_PASSWORD=$(secret)
STACK_DB_PASSWORD=$(secret)
AIONIS_API_KEY=$key
MEMORY_API_KEYS_JSON='{"$key":{"tenant_id":"default","role":"writer","agent_id":"stack"}}'
END
mv "$file.tmp" "$file"
echo "stack-env: wrote $file; AIONIS_API_KEY in it is the key of the tenant \"default\"" >&2
