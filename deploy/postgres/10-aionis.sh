#!/usr/bin/env bash
# Run once, by the database image, when the data directory is empty. The program's user owns its database and is no superuser;
# `aionis_runtime` owns nothing, so that row-level security holds for what the program does.
set -euo pipefail
: "${STACK_DB_PASSWORD:?}"
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres -v password="$STACK_DB_PASSWORD" <<'SQL'
CREATE ROLE aionis_runtime NOLOGIN NOSUPERUSER NOBYPASSRLS;
CREATE ROLE aionis LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'password';
GRANT aionis_runtime TO aionis;
CREATE DATABASE aionis OWNER aionis;
SQL
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname aionis <<'SQL'
CREATE EXTENSION vector;
ALTER SCHEMA public OWNER TO aionis;
SQL
