#!/usr/bin/env bash
# Moves a tenant between two PostgreSQL clusters by logical replication, step by step; docs/SHARD_ONBOARDING.md says what
# each step does and how it is taken back.
#
# Usage: scripts/shard-onboarding.sh publish | unpublish SOURCE TENANT
#        scripts/shard-onboarding.sh subscribe | compare | settle | flip | rollback | finish SOURCE TARGET TENANT
#        scripts/shard-onboarding.sh unsubscribe | clear TARGET TENANT
#        scripts/shard-onboarding.sh fence | unfence | release SOURCE TENANT
#        scripts/shard-onboarding.sh rehearse AIONIS [TENANTS [partitioned]]
#   SOURCE, TARGET   addresses of the databases, postgres://…, as a user that owns them and may replicate
#   SOURCE_FOR_TARGET  the source's address as the target's server reaches it; default SOURCE
# Needs psql and sha256sum. Exit code 0 done, 1 could not be done, 2 source and target differ or the step is refused.
set -euo pipefail
# Lists are sorted and compared.
export LC_ALL=C

here="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
# Rows of the tenant's memory; memory_scopes without its state, and the outbox, go their own ways.
tables="memory_commits memory_nodes memory_node_versions memory_edges memory_vectors memory_rule_defs memory_rule_feedback
memory_decisions memory_erasures memory_consolidation_candidates memory_merges memory_removed_edges memory_requests"
# How long to wait for a copy or for the other side, in s.
wait_s="${SHARD_WAIT_S:-120}"

say() { printf 'shard-onboarding: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 2; }
for tool in psql sha256sum; do
    command -v "$tool" >/dev/null || { say "$tool is needed"; exit 1; }
done

# What is called in a condition runs without `set -e`: there every failure is handed on by name.
sql() { # address, statements; variables tenant, prefix, name are there
    psql -XqAt -v ON_ERROR_STOP=1 -v tenant="$tenant" -v prefix="$tenant/" -v name="$name" "$1" <<<"$2" || exit 1
}
# Statements that need a strong lock, as one transaction. Who waits for such a lock keeps everybody else of the table waiting:
# so it is asked for shortly, and again, until it is had or the time is over.
sql_locked() { # address, statements
    local started code
    started="$(date +%s)"
    while :; do
        code=0
        psql -XqAt -v ON_ERROR_STOP=1 -v VERBOSITY=verbose -v tenant="$tenant" -v prefix="$tenant/" -v name="$name" "$1" \
            2>"$report" <<<"SET lock_timeout = '${SHARD_LOCK_MS:-2000}ms'; BEGIN; $2 COMMIT;" || code=$?
        [ "$code" != 0 ] || return 0
        # lock_not_available, deadlock_detected.
        if ! grep -qE 'ERROR: +(55P03|40P01):' "$report" || [ "$(($(date +%s) - started))" -gt "$wait_s" ]; then
            cat "$report" >&2
            exit 1
        fi
        sleep 0.5
    done
}
until_says() { # address, query, wanted, what
    local started seen
    started="$(date +%s)"
    while :; do
        seen="$(sql "$1" "$2")" || return 1
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
known_tables() { # address: all tables with a scope key; without partitions, histories, and the other layout of a cutover
    sql "$1" "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'scope_key'
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
            AND c.relname !~ '_(v2|flat)$' AND c.relname !~ '^aionis_move_[0-9a-f]+$'
            AND c.relname NOT IN ('job_runs', 'job_states', 'memory_purges', 'memory_recall_audit', 'memory_scopes',
                'memory_outbox') ORDER BY 1;"
}

publish() {
    local source="$1" list="" table known missing columns
    # A table of a newer version that is not in the list would be left behind without a word.
    known="$(known_tables "$source")"
    missing="$(comm -13 <(tr ' ' '\n' <<<"$tables" | sed '/^$/d' | sort) <(sort <<<"$known") | tr '\n' ' ')"
    [ -z "${missing// /}" ] || refuse "these tables are not moved, and hold rows of scopes: $missing"
    for table in $tables; do
        list+="$table WHERE (starts_with(scope_key, :'prefix')), "
    done
    columns="$(columns_of "$source" memory_scopes)"
    list+="memory_scopes ($columns) WHERE (starts_with(scope_key, :'prefix'))"
    # Rows of partitions go by the name of their table: the target may have another layout.
    sql "$source" "CREATE PUBLICATION :\"name\" FOR TABLE $list
        WITH (publish = 'insert, update, delete', publish_via_partition_root = true);"
    say "published $tenant as $name"
}
unpublish() { sql "$1" 'DROP PUBLICATION IF EXISTS :"name";'; }

subscribe() {
    local source="$1" target="$2" connection here there held
    here="$(schema_of "$source")"
    there="$(schema_of "$target")"
    [ "$here" = "$there" ] || refuse "the two databases have different schemas"
    held="$(sql "$target" "SELECT count(*) FROM memory_scopes WHERE tenant_id = :'tenant';")"
    [ "$held" = 0 ] || refuse "the target has scopes of $tenant already"
    held="$(sql "$target" "SELECT count(*) FROM pg_trigger WHERE tgname = :'name' || '_fence';")"
    [ "$held" = 0 ] || refuse "the target is fenced for $tenant since an earlier move: clear or release it first"
    copy_meta "$source" "$target"
    # What arrives is not served: whatever state the source's row has, here it is importing until the flip.
    sql_locked "$target" "CREATE OR REPLACE FUNCTION ${name}_importing() RETURNS trigger LANGUAGE plpgsql AS \$\$
        BEGIN NEW.state := 'importing'; RETURN NEW; END \$\$;
        CREATE OR REPLACE TRIGGER ${name}_importing BEFORE INSERT ON memory_scopes FOR EACH ROW
            WHEN (starts_with(NEW.scope_key, '$tenant/')) EXECUTE FUNCTION ${name}_importing();
        ALTER TABLE memory_scopes ENABLE ALWAYS TRIGGER ${name}_importing;"
    connection="${SOURCE_FOR_TARGET:-$source}"
    held="$(sql "$target" "SELECT count(*) FROM pg_subscription WHERE subname = :'name'
        AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database());")"
    if [ "$held" = 0 ]; then
        psql -XqAt -v ON_ERROR_STOP=1 -v name="$name" -v connection="$connection" "$target" \
            <<<"CREATE SUBSCRIPTION :\"name\" CONNECTION :'connection' PUBLICATION :\"name\";"
    fi
    until_says "$target" "SELECT count(*) > 0 AND bool_and(r.srsubstate = 'r') FROM pg_subscription_rel r
        JOIN pg_subscription s ON s.oid = r.srsubid WHERE s.subname = :'name';" t "all tables are copied"
    say "subscribed $tenant"
}
schema_of() {
    sql "$1" "SELECT md5(string_agg(version || sha256, ',' ORDER BY version)) FROM schema_migrations;"
}
# The keys of tokens and cursors, and the embedding model. A target that has served has keys of its own, and keeps them.
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
                redaction_key) say "note: the target keeps its own redaction_key: what is redacted there gets other tokens" ;;
                *) say "note: the target keeps its own $key: cursors of the source are refused there" ;;
            esac
        fi
    done
}
drop_trigger() { # address, which
    local held
    held="$(sql "$1" "SELECT count(*) FROM pg_trigger WHERE tgname = :'name' || '_$2'
        AND tgrelid = 'memory_scopes'::regclass;")" || exit 1
    # Without one to drop no lock is asked for.
    [ "$held" = 0 ] || sql_locked "$1" "DROP TRIGGER IF EXISTS ${name}_$2 ON memory_scopes;"
    sql "$1" "DROP FUNCTION IF EXISTS ${name}_$2();"
}
unsubscribe() {
    sql "$1" 'DROP SUBSCRIPTION IF EXISTS :"name";'
    drop_trigger "$1" importing
}
clear_rows() {
    local table held
    held="$(sql "$1" "SELECT count(*) FROM memory_scopes WHERE tenant_id = :'tenant' AND state = 'open';")"
    [ "$held" = 0 ] || refuse "$tenant is served from there"
    held="$(sql "$1" "SELECT count(*) FROM pg_publication WHERE pubname = :'name';")"
    [ "$held" = 0 ] || refuse "$tenant is published from there: that is the source"
    held="$(sql "$1" "SELECT count(*) FROM pg_subscription WHERE subname = :'name';")"
    [ "$held" = 0 ] || refuse "unsubscribe first"
    sql "$1" 'DROP TABLE IF EXISTS :"name";'
    for table in $tables memory_outbox job_states memory_recall_audit memory_scopes; do
        sql "$1" "DELETE FROM $table WHERE starts_with(scope_key, :'prefix');"
    done
    sql "$1" "DELETE FROM api_keys WHERE tenant_id = :'tenant';"
    drop_trigger "$1" fence
}

# Per table: rows, and a hash over all columns of all rows. Hashes of rows are joined in parts: a value has at most 1 GB.
digest() { # address, the tenant's outbox if it is compared, with the keys, too
    local table columns which
    for table in $tables memory_scopes ${2:+"$2" api_keys}; do
        columns="$(columns_of "$1" "$table")" || return 1
        which="starts_with(scope_key, :'prefix')"
        [ "$table" != api_keys ] || which="tenant_id = :'tenant'"
        [ "$table" != "$name" ] || printf 'memory_outbox '
        [ "$table" = "$name" ] || printf '%s ' "$table"
        sql "$1" "SELECT coalesce(sum(rows), 0) || ' ' ||
                coalesce(encode(sha256(convert_to(string_agg(h, '' ORDER BY part COLLATE \"C\"), 'UTF8')), 'hex'), '-')
            FROM (SELECT left(h, 3) AS part, count(*) AS rows,
                    encode(sha256(convert_to(string_agg(h, '' ORDER BY h COLLATE \"C\"), 'UTF8')), 'hex') AS h
                FROM (SELECT encode(sha256(convert_to(ROW($columns)::text, 'UTF8')), 'hex') AS h FROM $table
                    WHERE $which) AS hashes GROUP BY 1) AS parts;" || return 1
    done
}
# With "fenced" the outbox has to be equal too, which is kept beside the target's queue until the flip, and the keys.
compare() {
    local source target differ=0
    if [ "${3:-}" = fenced ]; then
        source="$(digest "$1" memory_outbox)" || return 1
        target="$(digest "$2" "$name")" || return 1
    else
        source="$(digest "$1" "")" || return 1
        target="$(digest "$2" "")" || return 1
    fi
    diff <(echo "$source") <(echo "$target") >&2 || differ=1
    [ "$differ" = 0 ] || { say "source (<) and target (>) differ: table, rows, hash"; return 2; }
    awk '{ rows += $2 } END { print "equal: " NR " tables, " rows " rows" }' <<<"$target"
}

fence() {
    # New scopes are refused by 57P03, which the service answers 503 for, as those that are there are by their state. A write
    # inserts the row of its scope in any case, so only one that is not there is refused here.
    sql_locked "$1" "CREATE OR REPLACE FUNCTION ${name}_fence() RETURNS trigger LANGUAGE plpgsql AS \$\$
        BEGIN
            IF EXISTS (SELECT 1 FROM memory_scopes s WHERE s.scope_key = NEW.scope_key) THEN RETURN NEW; END IF;
            RAISE EXCEPTION 'the tenant is being moved' USING ERRCODE = '57P03';
        END \$\$;
        CREATE OR REPLACE TRIGGER ${name}_fence BEFORE INSERT ON memory_scopes FOR EACH ROW
            WHEN (starts_with(NEW.scope_key, '$tenant/')) EXECUTE FUNCTION ${name}_fence();"
    # In a transaction of its own: who writes to a scope of the tenant may wait for the trigger, and this for him.
    sql_locked "$1" "UPDATE memory_scopes SET state = 'importing' WHERE starts_with(scope_key, :'prefix') AND state = 'open';"
    say "fenced $tenant"
}
unfence() {
    # The scopes first: the tenant is served again although the lock for the rest may have to be waited for.
    sql_locked "$1" "UPDATE memory_scopes SET state = 'open' WHERE starts_with(scope_key, :'prefix') AND state = 'importing';"
    drop_trigger "$1" fence
    say "opened $tenant"
}
must_be_fenced() {
    local seen
    seen="$(sql "$1" "SELECT count(*) = 0 AND EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = :'name' || '_fence'
            AND tgrelid = 'memory_scopes'::regclass AND tgenabled IN ('O', 'A'))
        FROM memory_scopes WHERE starts_with(scope_key, :'prefix') AND state <> 'importing';")" || exit 1
    [ "$seen" = t ] || refuse "fence the tenant at the source first"
}

# What follows would take its keys and its queue from who is served there.
must_wait() {
    local held
    held="$(sql "$1" "SELECT count(*) FROM memory_scopes WHERE tenant_id = :'tenant' AND state <> 'importing';")" || exit 1
    [ "$held" = 0 ] || refuse "$tenant is served from the target already"
}

settle() {
    local source="$1" target="$2" started code
    must_be_fenced "$source"
    must_wait "$target"
    started="$(date +%s)"
    # Workers of the source go on with the tenant's queue; nobody else writes. So the first quiet moment counts.
    while :; do
        catch_up "$source" "$target" || exit 1
        code=0
        compare "$source" "$target" fenced 2>"$report" || code=$?
        [ "$code" != 0 ] || return 0
        if [ "$code" != 2 ] || [ "$(($(date +%s) - started))" -ge "${SHARD_SETTLE_S:-10}" ]; then
            cat "$report" >&2
            exit "$code"
        fi
        sleep 0.2
    done
}
catch_up() {
    local source="$1" target="$2" now_us position columns
    # What a worker had claimed before the fence is finished, or its lease ends.
    now_us="(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    until_says "$source" "SELECT count(*) = 0 FROM memory_outbox WHERE starts_with(scope_key, :'prefix')
        AND lease_until > $now_us;" t "claimed work of the tenant is done" || return 1
    position="$(sql "$source" "SELECT pg_current_wal_lsn();")" || return 1
    until_says "$source" "SELECT coalesce(bool_or(replay_lsn >= '$position'), false) FROM pg_stat_replication
        WHERE application_name = :'name';" t "the target has passed $position" || return 1
    columns="$(columns_of "$source" memory_outbox)" || return 1
    # Beside the queue until the flip: a worker of the target would begin with it at once.
    sql "$target" 'DROP TABLE IF EXISTS :"name"; CREATE TABLE :"name" (LIKE memory_outbox INCLUDING GENERATED);
        DELETE FROM api_keys WHERE tenant_id = :'"'tenant'"';'
    copy_rows "$source" memory_outbox "$target" "$name" "$columns" "starts_with(scope_key, '$tenant/')" || return 1
    columns="$(columns_of "$source" api_keys)" || return 1
    copy_rows "$source" api_keys "$target" api_keys "$columns" "tenant_id = '$tenant'"
}
copy_rows() { # source, table there, target, table there, columns, which rows
    psql -XqAt -v ON_ERROR_STOP=1 "$1" -c "COPY (SELECT $5 FROM $2 WHERE $6) TO STDOUT" |
        psql -XqAt -v ON_ERROR_STOP=1 "$3" -c "COPY $4 ($5) FROM STDIN" || return 1
}

flip() {
    local source="$1" target="$2" columns
    must_be_fenced "$source"
    must_wait "$target"
    # Disabled by a flip that could not be done.
    sql "$target" 'ALTER SUBSCRIPTION :"name" ENABLE;'
    # Once more: a worker may have gone on since, and a key may have been made.
    settle "$source" "$target"
    # From here on nothing more may arrive: a removal at the source would be one here.
    sql "$target" 'ALTER SUBSCRIPTION :"name" DISABLE;'
    columns="$(columns_of "$target" memory_outbox)"
    # Before the scopes are open: a new one would be made importing. Nothing arrives any more, and the rows have their state.
    drop_trigger "$target" importing
    sql_locked "$target" "INSERT INTO memory_outbox ($columns) SELECT $columns FROM :\"name\";
        DROP TABLE :\"name\";
        UPDATE memory_scopes SET state = 'open' WHERE starts_with(scope_key, :'prefix') AND state = 'importing';"
    say "$tenant is served from the target; route it there"
}
rollback() {
    local source="$1" target="$2"
    must_be_fenced "$source"
    ahead "$source" "$target"
    [ -z "${ahead// /}" ] || refuse "the target has taken writes the source does not have: $ahead"
    # New scopes too: a client that still comes to the target must not be told that it was stored.
    fence "$target"
    ahead "$source" "$target"
    if [ -n "${ahead// /}" ]; then
        unfence "$target"
        refuse "the target took writes a moment ago: $ahead"
    fi
    unfence "$source"
}
# What the target has and the source has not, into `ahead`.
ahead() {
    local source target
    source="$(heads "$1")"
    target="$(heads "$2")"
    ahead="$(comm -13 <(sort <<<"$source") <(sort <<<"$target") | tr '\n' ' ')"
}
# Commits move a head. A selection of a tool, and a key, are stored without one.
heads() {
    sql "$1" "SELECT scope_key || '@' || head_seq || ':' || encode(head_hash, 'hex') FROM memory_scopes
            WHERE starts_with(scope_key, :'prefix')
        UNION ALL SELECT 'decision ' || scope_key || ' ' || id FROM memory_decisions WHERE starts_with(scope_key, :'prefix')
        UNION ALL SELECT concat_ws(' ', 'key', id, 'expires', expires_at, 'revoked', revoked_at) FROM api_keys
            WHERE tenant_id = :'tenant';"
}
finish() {
    local source="$1" target="$2" held
    must_be_fenced "$source"
    held="$(sql "$target" "SELECT count(*) FROM memory_scopes WHERE starts_with(scope_key, :'prefix') AND state = 'importing';")"
    [ "$held" = 0 ] || refuse "$tenant is not served from the target"
    unsubscribe "$target"
    unpublish "$source"
    # The fence stays: a client that still comes here must not be told that it was stored.
    sql "$source" "UPDATE api_keys SET revoked_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
        WHERE tenant_id = :'tenant' AND revoked_at IS NULL;"
    say "the move of $tenant is finished; its scopes at the source stay, marked and fenced, until they are purged"
}
release() {
    local held
    held="$(sql "$1" "SELECT count(*) FROM memory_scopes WHERE tenant_id = :'tenant';")"
    [ "$held" = 0 ] || refuse "$held scopes of $tenant are there: purge them first, or unfence to serve them again"
    held="$(sql "$1" "SELECT count(*) FROM api_keys WHERE tenant_id = :'tenant' AND revoked_at IS NULL;")"
    [ "$held" = 0 ] || refuse "$held keys of $tenant are valid there: a client that has one would write there again"
    drop_trigger "$1" fence
    say "nothing keeps $tenant from being new there"
}

step="${1:-}"
[ "$#" = 0 ] || shift
case "$step" in
    publish | unpublish | fence | unfence | release | unsubscribe | clear) [ "$#" = 2 ] || step= ;;
    subscribe | compare | settle | flip | rollback | finish) [ "$#" = 3 ] || step= ;;
    rehearse) exec python3 "$here/shard-rehearsal.py" "$here/shard-onboarding.sh" "$@" ;;
    *) step= ;;
esac
[ -n "$step" ] || { sed -n '5,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 1; }
tenant="${!#}"
# It stands in names and statements: only what a tenant may be called.
[[ "$tenant" =~ ^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$ ]] || { say "TENANT has to be a tenant's name"; exit 1; }
# Of the name of a tenant, whatever signs and length it has, and of no other: several moves may be under way.
name="aionis_move_$(printf %s "$tenant" | sha256sum | cut -c1-16)"
report="$(mktemp)"
trap 'rm -f "$report"' EXIT
case "$step" in
    clear) clear_rows "$@" ;;
    *) "$step" "$@" ;;
esac
