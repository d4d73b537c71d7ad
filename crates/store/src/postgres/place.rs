//! Where rows lie in their tables, as `ctid` tells it.
//!
//! An image remembers where it last saw the row of a node and of its vector. A row is read there without a way through an
//! index, three pages less. It may have moved since, or another row lie there: what is read is therefore compared with its
//! key, and looked up by the key if it is not the one.

use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef, types::Oid},
};

/// Object identifiers of `tid` and `tid[]`, the same on every server.
const TID: u32 = 27;
const TIDS: u32 = 1010;

/// A `tid`: number of the page, and of the row in it from one on, which has sixteen bits. Zero is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowPlace(pub(crate) u64);

/// A subquery for one row of a table: looked for at `q.row_place`, and by its key if another row is there or none. The second
/// part of the union is begun only if the first had nothing.
pub(crate) fn at_place_or_by_key(columns: &str, table: &str, key: &str) -> String {
    format!(
        "(SELECT {columns}, ctid AS row_place FROM {table} WHERE ctid = q.row_place AND {key} \
         UNION ALL SELECT {columns}, ctid FROM {table} WHERE {key} LIMIT 1)"
    )
}

impl Type<Postgres> for RowPlace {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(TID))
    }
}

impl PgHasArrayType for RowPlace {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(TIDS))
    }
}

impl Encode<'_, Postgres> for RowPlace {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        if self.0 == 0 {
            return Ok(IsNull::Yes);
        }
        buffer.extend_from_slice(&self.0.to_be_bytes()[2..]);
        Ok(IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for RowPlace {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a place is read in binary form".into());
        }
        let bytes = <[u8; 6]>::try_from(value.as_bytes()?)?;
        Ok(Self(bytes.iter().fold(0, |place, byte| place << 8 | u64::from(*byte))))
    }
}
