//! The embedding space of a database, and the index of its vectors.

use aionis_core::{canon::sha256_hex, ports::store::StoreError};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{error::driver, session::literal};
use crate::space::{CLIENT_SPACE, EmbeddingSpace, Settled, decide};

/// Most dimensions an HNSW index over half-precision vectors takes.
pub(crate) const INDEXED_DIM_MAX: usize = 4_000;

/// Settles the space of a database that is being opened, and makes its index. Done by the owner.
pub(crate) async fn settle(
    owner: &mut PgConnection,
    configured: Option<&EmbeddingSpace>,
    fallback_dim: usize,
) -> Result<EmbeddingSpace, StoreError> {
    let rows = sqlx::query(
        "SELECT key, value FROM aionis_meta WHERE key IN ('embedding_model', 'embedding_dim') \
         AND EXISTS (SELECT 1 FROM memory_vectors)",
    )
    .fetch_all(&mut *owner)
    .await
    .map_err(driver)?;
    let mut facts = std::collections::HashMap::new();
    for row in rows {
        facts.insert(row.try_get::<String, _>(0).map_err(driver)?, row.try_get::<String, _>(1).map_err(driver)?);
    }
    let stamped = match (facts.remove("embedding_model"), facts.remove("embedding_dim")) {
        (Some(name), Some(dim)) => {
            let dim = dim.parse().map_err(|_| {
                super::error::inconsistent("aionis_meta", "value", "embedding_dim", format!("{dim:?} is not a number"))
            })?;
            Some(EmbeddingSpace { name, dim })
        }
        _ => None,
    };
    let space = match decide(configured, stamped, fallback_dim, "use another database")? {
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
    for (key, value) in [("embedding_model", space.name.clone()), ("embedding_dim", space.dim.to_string())] {
        sqlx::query(
            "INSERT INTO aionis_meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .bind(key)
        .bind(value)
        .execute(&mut *owner)
        .await
        .map_err(driver)?;
    }
    Ok(space)
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
