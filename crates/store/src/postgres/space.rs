//! The embedding space of a database, and the index of its vectors.

use aionis_core::{canon::sha256_hex, ports::store::StoreError};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{PostgresOptions, error::driver, session::literal};
use crate::{
    deployment::not_prepared,
    space::{CLIENT_SPACE, EmbeddingSpace, Settled, decide},
};

/// Most dimensions an HNSW index over half-precision vectors takes.
pub(crate) const INDEXED_DIM_MAX: usize = 4_000;

/// The space the database is stamped with.
pub(crate) async fn stamped(connection: &mut PgConnection) -> Result<Option<EmbeddingSpace>, StoreError> {
    let sql = "SELECT key, value FROM aionis_meta WHERE key IN ('embedding_model', 'embedding_dim')";
    let mut facts = std::collections::HashMap::new();
    for row in sqlx::query(sql).fetch_all(connection).await.map_err(driver)? {
        facts.insert(row.try_get::<String, _>(0).map_err(driver)?, row.try_get::<String, _>(1).map_err(driver)?);
    }
    let (Some(name), Some(dim)) = (facts.remove("embedding_model"), facts.remove("embedding_dim")) else {
        return Ok(None);
    };
    let dim = dim.parse().map_err(|_| {
        super::error::inconsistent("aionis_meta", "value", "embedding_dim", format!("{dim:?} is not a number"))
    })?;
    Ok(Some(EmbeddingSpace { name, dim }))
}

/// Stamps the database with a space.
pub(crate) async fn stamp(connection: &mut PgConnection, space: &EmbeddingSpace) -> Result<(), StoreError> {
    let sql = "INSERT INTO aionis_meta (key, value) SELECT * FROM UNNEST($1::text[], $2::text[]) \
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    sqlx::query(sql)
        .bind(["embedding_model", "embedding_dim"])
        .bind([space.name.clone(), space.dim.to_string()])
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(driver)
}

/// Settles the space of a database that is being opened, and makes its index. Done by the owner.
pub(crate) async fn settle(owner: &mut PgConnection, options: &PostgresOptions) -> Result<EmbeddingSpace, StoreError> {
    let has_vectors: bool = sqlx::query("SELECT EXISTS (SELECT 1 FROM memory_vectors)")
        .fetch_one(&mut *owner)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(driver)?;
    let stamped = stamped(owner).await?.filter(|_| has_vectors || options.any_space);
    let space = match decide(
        options.space.as_ref(),
        stamped,
        options.fallback_dim,
        "run `aionis reembed --to` with the new one, or use another database",
    )? {
        Settled::Stamped(space) => return Ok(space),
        Settled::Stamp(space) => space,
        Settled::TakeOver(space) => {
            sqlx::query("UPDATE memory_vectors SET model = $1 WHERE model = $2")
                .bind(&space.name)
                .bind(CLIENT_SPACE)
                .execute(&mut *owner)
                .await
                .map_err(driver)?;
            space
        }
    };
    stamp(owner, &space).await?;
    Ok(space)
}

/// The space of a database that is taken as it is.
pub(crate) async fn found(owner: &mut PgConnection) -> Result<EmbeddingSpace, StoreError> {
    stamped(owner).await?.ok_or_else(|| not_prepared("the database is not stamped with an embedding space yet"))
}

/// Name of the index of a space's vectors.
pub(crate) fn index_name(space: &EmbeddingSpace) -> String {
    format!("memory_vectors_hnsw_{}", &sha256_hex(format!("{}/{}", space.name, space.dim))[..12])
}

/// Makes the partial index of a space's vectors; there may be one per embedding model.
pub(crate) async fn make_index(owner: &mut PgConnection, space: &EmbeddingSpace) -> Result<(), StoreError> {
    if space.dim > INDEXED_DIM_MAX {
        tracing::warn!(dim = space.dim, "vectors of more than 4000 dimensions get no index: every search compares all");
        return Ok(());
    }
    let sql = format!(
        "CREATE INDEX IF NOT EXISTS {} ON memory_vectors USING hnsw ((l2_normalize(embedding)::halfvec({})) halfvec_cosine_ops) \
         WHERE model = {} AND dim = {}",
        index_name(space),
        space.dim,
        literal(&space.name),
        space.dim
    );
    match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *owner).await {
        Ok(_) => Ok(()),
        // Another process makes the same one right now.
        Err(sqlx::Error::Database(e)) if matches!(e.code().as_deref(), Some("23505" | "42P07")) => Ok(()),
        Err(e) => Err(driver(e)),
    }
}
