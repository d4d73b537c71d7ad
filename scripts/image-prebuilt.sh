#!/usr/bin/env bash
# Builds the image from a program that was compiled outside, without network: for machines that reach no registry, and for
# rehearsals. The runtime stage is the same as that of a full build.
#
# Usage: scripts/image-prebuilt.sh AIONIS IMAGE [docker build arguments…]
#   AIONIS            the program, linked against glibc 2.36 or older
#   AIONIS_MODEL_DIR  the embedding model; default .models/potion-base-8M in the repository
#   DOCKER            the client, with BuildKit in it or buildx beside it; default docker
#   CA_CERTIFICATES   default /etc/ssl/certs/ca-certificates.crt
set -euo pipefail

aionis="$(readlink -f "${1:?usage: scripts/image-prebuilt.sh AIONIS IMAGE [docker build arguments]}")"
image="${2:?usage: scripts/image-prebuilt.sh AIONIS IMAGE [docker build arguments]}"
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model="${AIONIS_MODEL_DIR:-.models/potion-base-8M}"
certificates="${CA_CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}"
"$aionis" model status --model-dir "$model" >&2 || {
    echo "image-prebuilt: there is no sound model in $model; run scripts/fetch-model.sh $aionis" >&2
    exit 1
}
rm -rf dist
trap 'rm -rf dist' EXIT
mkdir -p dist/models/potion-base-8M
cp "$aionis" dist/aionis
cp -L "$model"/* dist/models/potion-base-8M/
cp "$certificates" dist/ca-certificates.crt
chmod -R u+rwX,go+rX dist
# BuildKit builds only the stages that are needed, so that the compiler's image is not asked for.
DOCKER_BUILDKIT=1 "${DOCKER:-docker}" build --build-arg BINARY_FROM=prebuilt -t "$image" "$@" .
