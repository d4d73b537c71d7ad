//! Integration tests of the storage adapters.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod acknowledged;
mod forgotten;
mod postgres;
mod sqlite;
mod transfer;

mod on_sqlite {
    aionis_testkit::store_conformance!(aionis_testkit::sqlite::subject);
}

mod on_postgres {
    aionis_testkit::store_conformance!(aionis_testkit::postgres::subject);
}
