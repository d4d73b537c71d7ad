#!/usr/bin/env bash
# Moves a tenant between two PostgreSQL clusters by logical replication, step by step; docs/SHARD_ONBOARDING.md says what
# each step does and how it is taken back.
#
# Usage: scripts/shard-onboarding.sh publish | unpublish SOURCE TENANT
#        scripts/shard-onboarding.sh subscribe | compare | settle | flip | rollback | finish SOURCE TARGET TENANT
#        scripts/shard-onboarding.sh unsubscribe | clear TARGET TENANT
#        scripts/shard-onboarding.sh fence | unfence SOURCE TENANT
#        scripts/shard-onboarding.sh rehearse AIONIS
#   SOURCE, TARGET   addresses of the databases, postgres://…, as a user that owns them and may replicate
#   SOURCE_FOR_TARGET  the source's address as the target's server reaches it; default SOURCE
# Needs psql. Exit code 0 done, 1 could not be done, 2 source and target differ or the step is refused.
set -euo pipefail

here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
# Rows of the tenant's memory; memory_scopes without its state, and the outbox, go their own ways.
tables="memory_commits memory_nodes memory_node_versions memory_edges memory_vectors memory_rule_defs memory_rule_feedback
memory_decisions memory_erasures memory_consolidation_candidates memory_merges memory_removed_edges memory_requests"
# How long to wait for a copy or for the other side, in s.
wait_s="${SHARD_WAIT_S:-120}"

say() { printf 'shard-onboarding: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 2; }
command -v psql >/dev/null || { say "psql is needed"; exit 1; }

sql() { # address, statements; variables tenant, prefix, name are there
    psql -XqAt -v ON_ERROR_STOP=1 -v tenant="$tenant" -v prefix="$tenant/" -v name="$name" "$1" <<<"$2" || exit 1
}
until_says() { # address, query, wanted, what
    local started seen
    started="$(date +%s)"
    while :; do
        seen="$(sql "$1" "$2")"
        [ "$seen" = "$3" ] && return 0
        if [ "$(($(date +%s) - started))" -gt "$wait_s" ]; then
            say "not within $wait_s s: $4 (it says: $seen)"
            return 1
        fi
        sleep 0.05
    done
}
columns_of() { # address, table: the columns that are stored, not made
    sql "$1" "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute
        WHERE attrelid = '$2'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
            AND NOT (attrelid = 'memory_scopes'::regclass AND attname = 'state');"
}
known_tables() { # address: all tables with a scope key, partitions and histories left out
    sql "$1" "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'scope_key'
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
            AND c.relname NOT IN ('job_runs', 'job_states', 'memory_purges', 'memory_recall_audit', 'memory_scopes',
                'memory_outbox') ORDER BY 1;"
}

publish() {
    local source="$1" list="" table missing
    # A table of a newer version that is not in the list would be left behind without a word.
    missing="$(comm -13 <(tr ' ' '\n' <<<"$tables" | sed '/^$/d' | sort) <(known_tables "$source" | sort) | tr '\n' ' ')"
    [ -z "${missing// /}" ] || refuse "these tables are not moved, and hold rows of scopes: $missing"
    for table in $tables; do
        list+="$table WHERE (starts_with(scope_key, :'prefix')), "
    done
    list+="memory_scopes ($(columns_of "$source" memory_scopes)) WHERE (starts_with(scope_key, :'prefix'))"
    sql "$source" "CREATE PUBLICATION :\"name\" FOR TABLE $list WITH (publish = 'insert, update, delete');"
    say "published $tenant"
}
unpublish() { sql "$1" 'DROP PUBLICATION IF EXISTS :"name";'; }

subscribe() {
    local source="$1" target="$2" connection
    for side in "$source" "$target"; do
        sql "$side" "SELECT 'ok' FROM schema_migrations LIMIT 1;" >/dev/null
    done
    [ "$(sql "$source" "SELECT md5(string_agg(version || sha256, ',' ORDER BY version)) FROM schema_migrations;")" = \
      "$(sql "$target" "SELECT md5(string_agg(version || sha256, ',' ORDER BY version)) FROM schema_migrations;")" ] ||
        refuse "the two databases have different schemas"
    [ "$(sql "$target" "SELECT count(*) FROM memory_scopes WHERE tenant_id = :'tenant';")" = 0 ] ||
        refuse "the target has scopes of $tenant already"
    copy_meta "$source" "$target"
    # What arrives is not served: whatever state the source's row has, here it is importing until the flip.
    sql "$target" "CREATE OR REPLACE FUNCTION aionis_move_importing() RETURNS trigger LANGUAGE plpgsql AS \$\$
        BEGIN NEW.state := 'importing'; RETURN NEW; END \$\$;
        CREATE OR REPLACE TRIGGER aionis_move_importing BEFORE INSERT ON memory_scopes FOR EACH ROW
            WHEN (starts_with(NEW.scope_key, '$tenant/')) EXECUTE FUNCTION aionis_move_importing();
        ALTER TABLE memory_scopes ENABLE ALWAYS TRIGGER aionis_move_importing;"
    connection="${SOURCE_FOR_TARGET:-$source}"
    psql -XqAt -v ON_ERROR_STOP=1 -v name="$name" -v connection="$connection" "$target" \
        <<<"CREATE SUBSCRIPTION :\"name\" CONNECTION :'connection' PUBLICATION :\"name\";"
    until_says "$target" "SELECT count(*) > 0 AND bool_and(r.srsubstate = 'r') FROM pg_subscription_rel r
        JOIN pg_subscription s ON s.oid = r.srsubid WHERE s.subname = :'name';" t "all tables are copied"
    say "subscribed $tenant"
}
# The keys of tokens and cursors, and the embedding model. A target that has others has other tenants: they decide.
copy_meta() {
    local source="$1" target="$2" key value held
    for key in embedding_model embedding_dim redaction_key cursor_key; do
        value="$(sql "$source" "SELECT value FROM aionis_meta WHERE key = '$key';")"
        held="$(sql "$target" "SELECT value FROM aionis_meta WHERE key = '$key';")"
        if [ -z "$held" ] && [ -n "$value" ]; then
            psql -XqAt -v ON_ERROR_STOP=1 -v key="$key" -v value="$value" "$target" \
                <<<"INSERT INTO aionis_meta VALUES (:'key', :'value');"
        elif [ "$held" != "$value" ]; then
            case "$key" in
                embedding_*) refuse "the target's $key is ${held:-none}, the source's ${value:-none}" ;;
                *) say "note: the target keeps a $key of its own: tokens and cursors of the two differ" ;;
            esac
        fi
    done
}
unsubscribe() {
    sql "$1" 'DROP SUBSCRIPTION IF EXISTS :"name";'
    sql "$1" 'DROP TRIGGER IF EXISTS aionis_move_importing ON memory_scopes; DROP FUNCTION IF EXISTS aionis_move_importing();'
}
clear_rows() {
    local table
    [ "$(sql "$1" "SELECT count(*) FROM memory_scopes WHERE tenant_id = :'tenant' AND state = 'open';")" = 0 ] ||
        refuse "$tenant is served from there"
    [ "$(sql "$1" "SELECT count(*) FROM pg_subscription WHERE subname = :'name';")" = 0 ] || refuse "unsubscribe first"
    sql "$1" 'DROP TABLE IF EXISTS :"name";'
    for table in $tables memory_outbox memory_scopes; do
        sql "$1" "DELETE FROM $table WHERE starts_with(scope_key, :'prefix');"
    done
    sql "$1" "DELETE FROM api_keys WHERE tenant_id = :'tenant';"
}

# Per table: rows, and a hash over all columns of all rows in the order of their hashes.
digest() { # address, table with the outbox
    local table columns
    for table in $tables memory_scopes $2; do
        columns="$(columns_of "$1" "$table")"
        printf '%s ' "$table"
        sql "$1" "SELECT count(*) || ' ' || coalesce(encode(sha256(convert_to(string_agg(h, '' ORDER BY h), 'UTF8')), 'hex'), '-')
            FROM (SELECT encode(sha256(convert_to(ROW($columns)::text, 'UTF8')), 'hex') AS h FROM $table
                  WHERE starts_with(scope_key, :'prefix')) AS rows;"
    done
}
# With "fenced" the outbox has to be equal too, which is kept beside the target's queue until the flip.
compare() {
    local source target differ=0
    if [ "${3:-}" = fenced ]; then
        source="$(digest "$1" memory_outbox)" target="$(digest "$2" "$name")"
        target="${target//$name/memory_outbox}"
    else
        source="$(digest "$1" "")" target="$(digest "$2" "")"
    fi
    diff <(echo "$source") <(echo "$target") >&2 || differ=1
    [ "$differ" = 0 ] || { say "source (<) and target (>) differ: table, rows, hash"; return 2; }
    awk '{ rows += $2 } END { print "equal: " NR " tables, " rows " rows" }' <<<"$target"
}

fence() {
    # New scopes are refused by 57P03, which the service answers 503 for, as those that are there are by their state. A write
    # inserts the row of its scope in any case, so only one that is not there is refused here.
    # Making the trigger waits for writes that are under way, of all tenants, and they for it: not for long.
    sql "$1" "SET lock_timeout = '5s';
        CREATE OR REPLACE FUNCTION aionis_move_fence() RETURNS trigger LANGUAGE plpgsql AS \$\$
        BEGIN
            IF EXISTS (SELECT 1 FROM memory_scopes s WHERE s.scope_key = NEW.scope_key) THEN RETURN NEW; END IF;
            RAISE EXCEPTION 'the tenant is being moved' USING ERRCODE = '57P03';
        END \$\$;
        CREATE OR REPLACE TRIGGER aionis_move_fence BEFORE INSERT ON memory_scopes FOR EACH ROW
            WHEN (starts_with(NEW.scope_key, '$tenant/')) EXECUTE FUNCTION aionis_move_fence();
        UPDATE memory_scopes SET state = 'importing' WHERE starts_with(scope_key, :'prefix') AND state = 'open';"
    say "fenced $tenant at the source"
}
unfence() {
    sql "$1" "DROP TRIGGER IF EXISTS aionis_move_fence ON memory_scopes; DROP FUNCTION IF EXISTS aionis_move_fence();
        UPDATE memory_scopes SET state = 'open' WHERE starts_with(scope_key, :'prefix') AND state = 'importing';"
    say "opened $tenant at the source"
}
is_fenced() {
    [ "$(sql "$1" "SELECT count(*) = 0 FROM memory_scopes WHERE starts_with(scope_key, :'prefix') AND state <> 'importing';")" = t ]
}

settle() {
    local source="$1" target="$2" started code
    is_fenced "$source" || refuse "fence the tenant at the source first"
    started="$(date +%s)"
    # A worker may still finish what it had claimed; nobody else writes. So the first quiet moment counts.
    while :; do
        code=0
        catch_up "$source" "$target" || exit 1
        compare "$source" "$target" fenced 2>"$report" || code=$?
        [ "$code" != 0 ] || return 0
        if [ "$(($(date +%s) - started))" -ge "${SHARD_SETTLE_S:-10}" ]; then
            cat "$report" >&2
            return 2
        fi
        sleep 0.2
    done
}
catch_up() {
    local source="$1" target="$2" now_us position columns
    # What a worker had claimed before the fence is finished, or its lease ends.
    now_us="(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    until_says "$source" "SELECT count(*) = 0 FROM memory_outbox WHERE starts_with(scope_key, :'prefix')
        AND lease_until > $now_us;" t "claimed work of the tenant is done"
    position="$(sql "$source" "SELECT pg_current_wal_lsn();")"
    until_says "$source" "SELECT coalesce(bool_or(replay_lsn >= '$position'), false) FROM pg_stat_replication
        WHERE application_name = :'name';" t "the target has passed $position"
    columns="$(columns_of "$source" memory_outbox)"
    # Beside the queue until the flip: a worker of the target would begin with it at once.
    sql "$target" 'DROP TABLE IF EXISTS :"name"; CREATE TABLE :"name" (LIKE memory_outbox INCLUDING GENERATED);
        DELETE FROM api_keys WHERE tenant_id = :'"'tenant'"';'
    copy_rows "$source" memory_outbox "$target" "$name" "$columns" "starts_with(scope_key, '$tenant/')"
    copy_rows "$source" api_keys "$target" api_keys "$(columns_of "$source" api_keys)" "tenant_id = '$tenant'"
}
copy_rows() { # source, table there, target, table there, columns, which rows
    psql -XqAt -v ON_ERROR_STOP=1 "$1" -c "COPY (SELECT $5 FROM $2 WHERE $6) TO STDOUT" |
        psql -XqAt -v ON_ERROR_STOP=1 "$3" -c "COPY $4 ($5) FROM STDIN" || exit 1
}

flip() {
    local source="$1" target="$2" columns
    is_fenced "$source" || refuse "fence the tenant at the source first"
    compare "$source" "$target" fenced
    # From here on nothing more may arrive: a removal at the source would be one here.
    sql "$target" 'ALTER SUBSCRIPTION :"name" DISABLE;'
    columns="$(columns_of "$target" memory_outbox)"
    sql "$target" "BEGIN;
        DROP TRIGGER aionis_move_importing ON memory_scopes;
        INSERT INTO memory_outbox ($columns) SELECT $columns FROM :\"name\";
        DROP TABLE :\"name\";
        UPDATE memory_scopes SET state = 'open' WHERE starts_with(scope_key, :'prefix') AND state = 'importing';
        COMMIT;"
    say "$tenant is served from the target; route it there"
}
rollback() {
    local source="$1" target="$2" ahead
    ahead="$(comm -13 <(heads "$source") <(heads "$target") | tr '\n' ' ')"
    [ -z "${ahead// /}" ] || refuse "the target has taken writes the source does not have: $ahead"
    sql "$target" "UPDATE memory_scopes SET state = 'importing' WHERE starts_with(scope_key, :'prefix') AND state = 'open';"
    ahead="$(comm -13 <(heads "$source") <(heads "$target") | tr '\n' ' ')"
    if [ -n "${ahead// /}" ]; then
        sql "$target" "UPDATE memory_scopes SET state = 'open' WHERE starts_with(scope_key, :'prefix') AND state = 'importing';"
        refuse "the target took writes a moment ago: $ahead"
    fi
    unfence "$source"
}
heads() { sql "$1" "SELECT scope_key || '@' || head_seq || ':' || encode(head_hash, 'hex') FROM memory_scopes
    WHERE starts_with(scope_key, :'prefix') ORDER BY 1;" | sort; }
finish() {
    unsubscribe "$2"
    unpublish "$1"
    sql "$1" "DROP TRIGGER IF EXISTS aionis_move_fence ON memory_scopes; DROP FUNCTION IF EXISTS aionis_move_fence();"
    say "the move of $tenant is finished; its rows at the source stay, marked, until they are purged"
}

report="$(mktemp)"
trap 'rm -f "$report"' EXIT
step="${1:-}"
[ "$#" = 0 ] || shift
case "$step" in
    publish | unpublish | fence | unfence | unsubscribe | clear) [ "$#" = 2 ] || step= ;;
    subscribe | compare | settle | flip | rollback | finish) [ "$#" = 3 ] || step= ;;
    rehearse) exec python3 "$here/shard-rehearsal.py" "$here/shard-onboarding.sh" "$@" ;;
    *) step= ;;
esac
[ -n "$step" ] || { sed -n '5,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 1; }
tenant="${!#}"
# It stands in names and statements: only what a tenant may be called.
[[ "$tenant" =~ ^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$ ]] || { say "TENANT has to be a tenant's name"; exit 1; }
name="aionis_move_$(tr 'A-Z.-' 'a-z__' <<<"$tenant")"
case "$step" in
    clear) clear_rows "$@" ;;
    *) "$step" "$@" ;;
esac
