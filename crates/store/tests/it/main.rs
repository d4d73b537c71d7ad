//! Integration tests of the storage adapters.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sqlite;

mod conformance {
    aionis_testkit::store_conformance!(aionis_testkit::sqlite::subject);
}
