//! Request bodies, written by hand: building one must cost little next to sending it.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::Value;

use super::args::{Operation, Vectors};
use super::rng::Rng;
use super::text::{Stream, Texts};
use super::vectors::{CLUSTERS, Clusters};

/// Nodes of one topic, the topic included.
const TOPIC_SIZE: u64 = 25;
/// Nodes of one seeding request.
const SEED_BATCH: u64 = 200;
/// Bytes of vectors one seeding request may carry: the server refuses bodies over 5 MiB.
const SEED_VECTOR_BYTES: u64 = 4_000_000;

/// Makes the body of every request of a run.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// `"scope":...,"tenant_id":...`, already quoted.
    address: String,
    texts: Texts,
    clusters: Option<Clusters>,
    supplied: bool,
    dim: usize,
    nonce: u64,
}

/// What [`Bodies::new`] needs to know.
#[derive(Debug)]
pub(crate) struct BodyOptions<'a> {
    pub(crate) scope: &'a str,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) dim: Option<usize>,
    pub(crate) vectors: Vectors,
    pub(crate) seed: u64,
    pub(crate) nonce: u64,
    pub(crate) seeded: u64,
}

/// A seeding request.
#[derive(Debug)]
pub(crate) struct SeedBatch {
    pub(crate) body: Bytes,
    pub(crate) nodes: u64,
    pub(crate) edges: u64,
}

impl Bodies {
    /// Prepares words and clusters.
    pub(crate) fn new(options: &BodyOptions<'_>) -> Self {
        let mut address = format!("\"scope\":{}", Value::from(options.scope));
        if let Some(tenant) = options.tenant {
            // Writing to a string cannot fail.
            let _ = write!(address, ",\"tenant_id\":{}", Value::from(tenant));
        }
        Self {
            address,
            texts: Texts::new(options.seed, options.nonce, options.seeded),
            clusters: options.dim.map(|dim| Clusters::new(dim, options.seed)),
            supplied: options.vectors == Vectors::Supplied,
            dim: options.dim.unwrap_or(0),
            nonce: options.nonce,
        }
    }

    /// The body of measured request number `sequence`.
    pub(crate) fn measured(&self, operation: Operation, sequence: u64) -> Bytes {
        match operation {
            Operation::Write1 => self.write(sequence, 1),
            Operation::Write20 => self.write(sequence, 20),
            Operation::Recall => self.recall(sequence),
            Operation::RecallText => self.recall_text(sequence),
        }
    }

    /// How many nodes a seeding request has: a multiple of the topic size.
    pub(crate) fn seed_batch_size(&self) -> u64 {
        if !self.supplied {
            return SEED_BATCH;
        }
        let fitting = SEED_VECTOR_BYTES / (self.dim as u64 * 10).max(1);
        SEED_BATCH.min(fitting / TOPIC_SIZE * TOPIC_SIZE).max(TOPIC_SIZE)
    }

    /// The seeding request for nodes `first..end`: topics with their members, each node related to the next.
    pub(crate) fn seed(&self, first: u64, end: u64) -> SeedBatch {
        let mut out = self.open(&format!("bench seed {first}"));
        out.push_str(",\"trigger_topic_cluster\":false,\"nodes\":[");
        for index in first..end {
            separate(&mut out, index > first);
            self.seed_node(index, &mut out);
        }
        out.push_str("],\"edges\":[");
        let mut edges = 0;
        for index in first..end {
            let topic = index / TOPIC_SIZE * TOPIC_SIZE;
            if topic != index {
                push_edge(&mut out, &mut edges, "part_of", &seed_id(index), &seed_id(topic));
            }
            if index > 0 {
                push_edge(&mut out, &mut edges, "related_to", &seed_id(index - 1), &seed_id(index));
            }
        }
        out.push_str("]}");
        SeedBatch { body: Bytes::from(out), nodes: end - first, edges }
    }

    fn seed_node(&self, index: u64, out: &mut String) {
        let mut rng = self.texts.rng(Stream::SeedVector, index);
        let topic = index.is_multiple_of(TOPIC_SIZE);
        let kind = if topic { "topic" } else { seed_kind(&mut rng) };
        let _ = write!(out, "{{\"type\":\"{kind}\",\"client_id\":\"{}\"", seed_id(index));
        if matches!(kind, "topic" | "entity" | "concept") {
            let _ = write!(out, ",\"title\":\"{}\"", self.texts.title(Stream::Seed, index));
        }
        if topic {
            out.push_str(",\"slots\":{\"topic_state\":\"active\"}");
        }
        self.finish_node(Stream::Seed, index, (index / TOPIC_SIZE) as usize, &mut rng, out);
    }

    fn write(&self, sequence: u64, count: u64) -> Bytes {
        let mut out = self.open(&format!("bench write {:x}-{sequence}", self.nonce));
        out.push_str(",\"nodes\":[");
        for member in 0..count {
            separate(&mut out, member > 0);
            let mut rng = self.texts.rng(Stream::WriteVector, sequence * 32 + member);
            let id = self.write_id(sequence, member);
            let _ = write!(out, "{{\"type\":\"event\",\"client_id\":\"{id}\"");
            let cluster = sequence as usize % CLUSTERS;
            self.finish_node(Stream::Write, sequence * 32 + member, cluster, &mut rng, &mut out);
        }
        out.push_str("],\"edges\":[");
        let mut edges = 0;
        for member in 0..if count > 1 { count } else { 0 } {
            let (src, dst) = (self.write_id(sequence, member), self.write_id(sequence, (member + 1) % count));
            push_edge(&mut out, &mut edges, "related_to", &src, &dst);
        }
        out.push_str("]}");
        Bytes::from(out)
    }

    fn recall(&self, sequence: u64) -> Bytes {
        let mut out = format!("{{{},\"query_embedding\":", self.address);
        match &self.clusters {
            Some(clusters) => {
                let mut rng = self.texts.rng(Stream::Query, sequence);
                let cluster = rng.below(CLUSTERS);
                clusters.write(cluster, &mut rng, &mut out);
            }
            None => out.push_str("[]"),
        }
        out.push('}');
        Bytes::from(out)
    }

    fn recall_text(&self, sequence: u64) -> Bytes {
        Bytes::from(format!("{{{},\"query_text\":\"{}\"}}", self.address, self.texts.question(sequence)))
    }

    /// The start of a write: where to, in the shared lane, and why.
    fn open(&self, input: &str) -> String {
        format!("{{{},\"memory_lane\":\"shared\",\"input_text\":\"{input}\"", self.address)
    }

    /// The members every node has, and the closing brace.
    fn finish_node(&self, stream: Stream, index: u64, cluster: usize, rng: &mut Rng, out: &mut String) {
        let (salience, text) = (rng.between(20, 95), self.texts.text(stream, index));
        let _ = write!(out, ",\"text_summary\":\"{text}\",\"salience\":0.{salience}");
        if let (true, Some(clusters)) = (self.supplied, &self.clusters) {
            out.push_str(",\"embedding\":");
            clusters.write(cluster, rng, out);
        }
        out.push('}');
    }

    fn write_id(&self, sequence: u64, member: u64) -> String {
        format!("bench-write-{:x}-{sequence}-{member}", self.nonce)
    }
}

fn seed_id(index: u64) -> String {
    format!("bench-{index}")
}

/// Mostly events, as agents write them.
fn seed_kind(rng: &mut Rng) -> &'static str {
    match rng.below(10) {
        0 => "entity",
        1 => "concept",
        2 => "evidence",
        _ => "event",
    }
}

fn push_edge(out: &mut String, count: &mut u64, kind: &str, src: &str, dst: &str) {
    separate(out, *count > 0);
    *count += 1;
    let _ = write!(
        out,
        "{{\"type\":\"{kind}\",\"src\":{{\"client_id\":\"{src}\"}},\"dst\":{{\"client_id\":\"{dst}\"}},\"weight\":0.7,\"confidence\":0.8}}"
    );
}

fn separate(out: &mut String, needed: bool) {
    if needed {
        out.push(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(vectors: Vectors, dim: Option<usize>) -> Bodies {
        let (scope, tenant) = ("a \"b\"", Some("t"));
        Bodies::new(&BodyOptions { scope, tenant, dim, vectors, seed: 1, nonce: 255, seeded: 50 })
    }

    fn parse(body: &Bytes) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    fn len(value: &Value, key: &str) -> usize {
        value[key].as_array().unwrap().len()
    }

    #[test]
    fn seeding_requests_are_whole_topics() {
        let bodies = bodies(Vectors::Derived, None);
        let batch = bodies.seed(0, 50);
        let value = parse(&batch.body);
        assert_eq!((value["scope"].as_str(), value["tenant_id"].as_str()), (Some("a \"b\""), Some("t")));
        assert_eq!(value["memory_lane"], "shared");
        assert_eq!((len(&value, "nodes") as u64, len(&value, "edges") as u64), (batch.nodes, batch.edges));
        assert_eq!((batch.nodes, batch.edges), (50, 48 + 49));
        assert_eq!(value["nodes"][25]["type"], "topic");
        assert_eq!(value["nodes"][25]["slots"]["topic_state"], "active");
        assert!(value["nodes"][1].get("embedding").is_none());
        assert_eq!(batch.body, bodies.seed(0, 50).body);
        // The next batch is tied to this one.
        let next = parse(&bodies.seed(50, 60).body);
        assert_eq!(next["edges"][0]["src"]["client_id"], "bench-49");
    }

    #[test]
    fn supplied_vectors_make_smaller_batches() {
        assert_eq!(bodies(Vectors::Derived, Some(4096)).seed_batch_size(), 200);
        assert_eq!(bodies(Vectors::Supplied, Some(384)).seed_batch_size(), 200);
        let large = bodies(Vectors::Supplied, Some(4096));
        assert_eq!(large.seed_batch_size(), 75);
        assert!(large.seed(0, 75).body.len() < 5 * 1024 * 1024);
        assert_eq!(len(&parse(&large.seed(0, 1).body)["nodes"][0], "embedding"), 4096);
    }

    #[test]
    fn measured_writes_are_fresh() {
        let bodies = bodies(Vectors::Derived, None);
        let one = parse(&bodies.measured(Operation::Write1, 7));
        assert_eq!((len(&one, "nodes"), len(&one, "edges")), (1, 0));
        assert_eq!(one["nodes"][0]["client_id"], "bench-write-ff-7-0");
        let twenty = parse(&bodies.measured(Operation::Write20, 8));
        assert_eq!((len(&twenty, "nodes"), len(&twenty, "edges")), (20, 20));
        assert_ne!(one["nodes"][0]["text_summary"], twenty["nodes"][0]["text_summary"]);
    }

    #[test]
    fn reads_carry_a_vector_or_a_question() {
        let bodies = bodies(Vectors::Derived, Some(8));
        assert_eq!(len(&parse(&bodies.measured(Operation::Recall, 1)), "query_embedding"), 8);
        assert!(parse(&bodies.measured(Operation::RecallText, 1))["query_text"].as_str().unwrap().ends_with('?'));
    }
}
