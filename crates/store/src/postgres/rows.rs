//! Between SQL values and domain values, in one place.

use aionis_core::{canon::Digest, ports::store::StoreError};
use sqlx::{Decode, Row, Type, postgres::PgRow};

use super::error::{driver, inconsistent};

/// A column.
pub(crate) fn get<'r, T: Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres>>(
    row: &'r PgRow,
    at: usize,
) -> Result<T, StoreError> {
    row.try_get(at).map_err(driver)
}

/// A stored unsigned number.
pub(crate) fn unsigned(row: &PgRow, at: usize) -> Result<u64, StoreError> {
    let value: i64 = get(row, at)?;
    u64::try_from(value).map_err(|_| inconsistent("memory", "number", at, format!("{value} is negative")))
}

/// An unsigned number on its way into storage.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A digest from bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> Result<Digest, StoreError> {
    <[u8; 32]>::try_from(bytes)
        .map(Digest)
        .map_err(|_| inconsistent("memory", "digest", "", format!("{} bytes are no digest", bytes.len())))
}

/// A stored digest.
pub(crate) fn digest(row: &PgRow, at: usize) -> Result<Digest, StoreError> {
    digest_of(get::<&[u8]>(row, at)?)
}

/// An enumeration value.
pub(crate) fn parsed<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, StoreError> {
    parse(text).ok_or_else(|| inconsistent("memory", "enumeration", "", format!("unknown value {text:?}")))
}

/// A stored enumeration value.
pub(crate) fn choice<T>(row: &PgRow, at: usize, parse: impl Fn(&str) -> Option<T>) -> Result<T, StoreError> {
    parsed(get::<&str>(row, at)?, parse)
}

/// JSON from its text.
pub(crate) fn json_of(text: &str) -> Result<serde_json::Value, StoreError> {
    // What most nodes have of attributes.
    if text == "{}" {
        return Ok(serde_json::Value::Object(serde_json::Map::new()));
    }
    serde_json::from_str(text).map_err(|e| inconsistent("memory", "json", "", e.to_string()))
}

/// Stored JSON, selected as text.
pub(crate) fn json(row: &PgRow, at: usize) -> Result<serde_json::Value, StoreError> {
    json_of(get::<&str>(row, at)?)
}
