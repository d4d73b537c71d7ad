//! Codes of vectors that another version of the program has made.
//!
//! Codes are derived: when their form changes they are made anew from the vectors, once, before the first image is loaded.

use aionis_core::ports::store::StoreError;
use pgvector::Vector;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::error::driver;
use crate::deployment::not_prepared;
use aionis_image::Coding;

/// The form of [`Coding::encode`]'s codes. A new form gets a new number.
const CODE_FORM: &str = "3";
/// Vectors coded at once.
const PAGE: i64 = 500;
/// Number of the advisory lock under which one of many starting processes does it.
const LOCK: i64 = 0x61_696f_6e69_7332;

/// Makes the codes of all vectors anew if they have another form. Done by the owner.
pub(crate) async fn recode(owner: &mut PgConnection) -> Result<(), StoreError> {
    if is_current(owner).await? {
        return Ok(());
    }
    sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut *owner).await.map_err(driver)?;
    let done = all(owner).await;
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(owner).await.map_err(driver)?;
    done
}

/// Refuses a database whose codes would have to be made anew.
pub(crate) async fn check(owner: &mut PgConnection) -> Result<(), StoreError> {
    if is_current(owner).await? {
        return Ok(());
    }
    Err(not_prepared("the codes of the database's vectors are not of this version's form"))
}

async fn is_current(owner: &mut PgConnection) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM aionis_meta WHERE key = 'vector_code_form' AND value = $1)";
    sqlx::query(sql).bind(CODE_FORM).fetch_one(owner).await.and_then(|row| row.try_get(0)).map_err(driver)
}

async fn all(owner: &mut PgConnection) -> Result<(), StoreError> {
    if is_current(owner).await? {
        return Ok(());
    }
    let mut after = (String::new(), Uuid::nil(), String::new());
    let mut count = 0;
    loop {
        let sql = "SELECT scope_key, node_id, model, embedding, created_at FROM memory_vectors \
                   WHERE (scope_key, node_id, model) > ($1, $2, $3) ORDER BY scope_key, node_id, model LIMIT $4";
        let rows = sqlx::query(sql)
            .bind(&after.0)
            .bind(after.1)
            .bind(&after.2)
            .bind(PAGE)
            .fetch_all(&mut *owner)
            .await
            .map_err(driver)?;
        let (mut scopes, mut nodes, mut models) = (Vec::new(), Vec::new(), Vec::new());
        let (mut codes, mut times) = (Vec::new(), Vec::new());
        for row in &rows {
            let vector: Vec<f32> = row.try_get::<Vector, _>(3).map_err(driver)?.to_vec();
            scopes.push(row.try_get::<String, _>(0).map_err(driver)?);
            nodes.push(row.try_get::<Uuid, _>(1).map_err(driver)?);
            models.push(row.try_get::<String, _>(2).map_err(driver)?);
            codes.push(Coding::of(vector.len()).encode(&vector));
            times.push(row.try_get::<i64, _>(4).map_err(driver)?);
        }
        let (Some(scope), Some(node), Some(model)) = (scopes.last(), nodes.last(), models.last()) else { break };
        after = (scope.clone(), *node, model.clone());
        count += rows.len();
        let sql = "UPDATE memory_vectors v SET code = q.code \
                   FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::bytea[], $5::bigint[]) \
                       AS q (scope_key, node_id, model, code, created_at) \
                   WHERE v.scope_key = q.scope_key AND v.node_id = q.node_id AND v.model = q.model \
                       AND v.created_at = q.created_at";
        sqlx::query(sql)
            .bind(scopes)
            .bind(nodes)
            .bind(models)
            .bind(codes)
            .bind(times)
            .execute(&mut *owner)
            .await
            .map_err(driver)?;
    }
    if count > 0 {
        tracing::info!(vectors = count, "codes of vectors were made anew");
    }
    let sql = "INSERT INTO aionis_meta (key, value) VALUES ('vector_code_form', $1) \
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    sqlx::query(sql).bind(CODE_FORM).execute(owner).await.map(|_| ()).map_err(driver)
}
