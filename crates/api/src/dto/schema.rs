//! Schemas of members whose types belong to the core, for the derives in this folder.

use aionis_core::model::{EdgeType, EmbeddingStatus, Lane, NodeType, Tier};
use utoipa::openapi::{
    Array, ArrayBuilder, Object, ObjectBuilder, Ref, RefOr, Schema,
    schema::{SchemaType, Type},
};

fn words<'a>(words: impl Iterator<Item = &'a str>) -> Object {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).enum_values(Some(words)).build()
}

fn list(name: &str) -> Array {
    ArrayBuilder::new().items(component(name)).build()
}

fn component(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

pub(crate) fn node_type() -> Object {
    words(NodeType::ALL.iter().map(|kind| kind.as_str()))
}

pub(crate) fn edge_type() -> Object {
    words(EdgeType::ALL.iter().map(|kind| kind.as_str()))
}

pub(crate) fn tier() -> Object {
    words(Tier::ALL.iter().map(|tier| tier.as_str()))
}

pub(crate) fn lane() -> Object {
    words(Lane::ALL.iter().map(|lane| lane.as_str()))
}

pub(crate) fn embedding_status() -> Object {
    words(EmbeddingStatus::ALL.iter().map(|status| status.as_str()))
}

pub(crate) fn write_status() -> Object {
    words(["created", "updated", "unchanged"].into_iter())
}

pub(crate) fn sha256() -> Object {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).pattern(Some("^[a-f0-9]{64}$")).build()
}

pub(crate) fn erased() -> Array {
    list("ErasedNode")
}

pub(crate) fn warnings() -> Array {
    list("Warning")
}

pub(crate) fn ranked() -> Array {
    list("Ranked")
}

pub(crate) fn context_items() -> Array {
    list("ContextItem")
}

pub(crate) fn citations() -> Array {
    list("Citation")
}

pub(crate) fn debug_embeddings() -> Array {
    list("DebugEmbedding")
}

pub(crate) fn counts() -> RefOr<Schema> {
    component("Counts")
}

pub(crate) fn timings() -> RefOr<Schema> {
    component("Timings")
}

pub(crate) fn pending() -> RefOr<Schema> {
    component("Pending")
}

pub(crate) fn query() -> RefOr<Schema> {
    component("RecallQuery")
}

pub(crate) fn rules() -> RefOr<Schema> {
    component("RecallRules")
}
