//! Requests and answers as they look on the wire.

pub(crate) mod find;
pub(crate) mod forget;
pub(crate) mod history;
pub(crate) mod operate;
pub(crate) mod recall;
mod schema;
pub(crate) mod tenancy;
pub(crate) mod tools;
pub(crate) mod write;
