#!/usr/bin/env bash
# What the stand-in does at a start: as root hands the data directory to its user, then makes the database if there is none.
set -euo pipefail

if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    chown -R postgres:postgres "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups "$BASH_SOURCE" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?}"
    export POSTGRES_USER="${POSTGRES_USER:-postgres}" POSTGRES_DB="${POSTGRES_DB:-${POSTGRES_USER:-postgres}}"
    initdb -U "$POSTGRES_USER" -A scram-sha-256 --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --locale=C.UTF-8 -E UTF8 \
        --data-checksums "$PGDATA"
    printf 'local all all trust\nhost all all all scram-sha-256\n' >"$PGDATA/pg_hba.conf"
    # On its socket only, as long as the scripts run: nobody is to take half a database for a whole one.
    pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -c unix_socket_directories=/tmp" -w start
    export PGHOST=/tmp
    if [ "$POSTGRES_DB" != postgres ]; then
        psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -v name="$POSTGRES_DB" <<<'CREATE DATABASE :"name";'
    fi
    for script in /docker-entrypoint-initdb.d/*.sh; do
        [ -e "$script" ] || continue
        "$script"
    done
    pg_ctl -D "$PGDATA" -m fast -w stop
    unset PGHOST
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/tmp
