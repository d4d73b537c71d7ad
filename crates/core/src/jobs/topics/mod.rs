//! Topics: events that are alike are put together (operations specification 1.7).
//!
//! A topic takes only events of its own [`TopicGroup`]: seen by exactly the same viewers, with vectors of the same model. Its
//! vector is the mean of its members' vectors and its count the number of its members, both taken from what is stored and
//! not from what the topic says of itself. A topic that somebody wrote keeps its text and its vector.

mod nodes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::nodes::{CLUSTER_KIND, CREATED_BY, edge_input, topic_id};
use crate::{
    canon::Digest,
    clock::Timestamp,
    ids::NodeId,
    model::NodeType,
    ports::store::{SourceNode, TopicGroup, TopicMean},
    write::{EdgeInput, NodeInput},
};

/// What clustering is done by.
#[derive(Clone, Debug)]
pub struct ClusterParams {
    /// Least cosine at which an event joins a topic, −1…1.
    pub similarity_min: f64,
    /// Members from which on a topic is active.
    pub events_min: u64,
    /// The scope's key as ids are derived from it.
    pub reference_key: String,
}

/// A topic that is stored, and what its members are.
#[derive(Clone, Debug)]
pub struct KnownTopic {
    /// The topic.
    pub node: SourceNode,
    /// Its members.
    pub members: TopicMean,
}

/// Which events belong together, of one group: each list is a cluster, by position among the events.
pub type Clusters = Vec<Vec<usize>>;

/// What is written, and what it amounts to.
#[derive(Debug, Default)]
pub struct ClusterPlan {
    /// Topics that are new or changed.
    pub nodes: Vec<NodeInput>,
    /// Their edges.
    pub edges: Vec<EdgeInput>,
    /// What all of it was made of.
    pub expected: Vec<(NodeId, Option<Digest>)>,
    /// Counts.
    pub counts: ClusterCounts,
}

impl ClusterPlan {
    /// Adds the plan of another group.
    pub fn add(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
        self.edges.extend(other.edges);
        self.expected.extend(other.expected);
        let (sum, more) = (&mut self.counts, other.counts);
        sum.processed += more.processed;
        sum.assigned += more.assigned;
        sum.alone += more.alone;
        sum.created += more.created;
        sum.promoted += more.promoted;
        sum.touched += more.touched;
        sum.small += more.small;
        sum.similarity_sum += more.similarity_sum;
    }
}

/// What a plan amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClusterCounts {
    /// Events that were looked at.
    pub processed: u64,
    /// Those that are in a topic with others now.
    pub assigned: u64,
    /// Those that begin a topic of their own and are alone in it.
    pub alone: u64,
    /// Topics that are new.
    pub created: u64,
    /// Topics that became active.
    pub promoted: u64,
    /// Topics that got members.
    pub touched: u64,
    /// Those of them that have too few members to be active.
    pub small: u64,
    /// Sum of the similarities of the assigned to their topics.
    pub similarity_sum: f64,
}

/// The group of a node; none in quarantine.
pub fn group_of(node: &SourceNode) -> Option<TopicGroup> {
    (!node.audience.is_nobody())
        .then(|| TopicGroup { audience: node.audience.clone(), embedding_model: node.embedding_model.clone() })
}

/// Whether an event may be put into a topic.
pub fn is_eligible(event: &SourceNode) -> bool {
    event.node_type == NodeType::Event
        && event.tier.is_recallable()
        && !event.audience.is_nobody()
        && !event.is_alias()
        && event.vector.is_some()
}

/// Whether a topic takes events.
pub fn is_open(topic: &SourceNode) -> bool {
    topic.node_type == NodeType::Topic && topic.tier.is_recallable() && !topic.is_alias() && topic.vector.is_some()
}

/// Cosine of two vectors; nothing if one has no direction.
pub fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    let (mut ab, mut aa, mut bb) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    let length = aa.sqrt() * bb.sqrt();
    (length.is_normal() && a.len() == b.len()).then(|| ab / length)
}

/// Puts each event, in the order given, into the topic most like it, be it stored or begun by an event before; into a new one
/// when none is like it.
pub fn plan_online(
    params: &ClusterParams,
    events: &[SourceNode],
    topics: Vec<KnownTopic>,
    now: Timestamp,
) -> ClusterPlan {
    let mut plan = ClusterPlan::default();
    let mut stored = by_group(topics);
    for (group, events) in events_by_group(events) {
        let mut open = stored.remove(&group).unwrap_or_default();
        for event in events {
            let Some(vector) = &event.vector else { continue };
            let at = match most_like(&open, vector, params.similarity_min) {
                Some(at) => at,
                None => {
                    open.push(OpenTopic::begun_by(event, params));
                    open.len() - 1
                }
            };
            open[at].take(event, vector);
        }
        nodes::write_down(&mut plan, params, &open, now);
    }
    plan.counts.processed = events.len() as u64;
    plan
}

/// Makes a topic of each cluster of a group, or puts it into the stored topic most like it. What is in no cluster stays out, and
/// so does what is unlike the middle of its cluster.
pub fn plan_clusters(
    params: &ClusterParams,
    events: &[SourceNode],
    clusters: &Clusters,
    topics: Vec<KnownTopic>,
    now: Timestamp,
) -> ClusterPlan {
    let mut plan = ClusterPlan::default();
    let takes = topics.into_iter().filter(|topic| is_open(&topic.node));
    let mut open: Vec<OpenTopic<'_>> = takes.map(OpenTopic::stored).collect();
    open.sort_by_key(|topic| topic.id);
    for cluster in clusters {
        let mut members: Vec<(&SourceNode, &Vec<f32>)> = cluster
            .iter()
            .filter_map(|at| events.get(*at))
            .filter_map(|event| event.vector.as_ref().map(|v| (event, v)))
            .collect();
        let Some(mean) = mean_of(members.iter().map(|(_, vector)| vector.as_slice())) else { continue };
        members.retain(|(_, vector)| cosine(vector, &mean).is_some_and(|like| like >= params.similarity_min));
        if (members.len() as u64) < params.events_min.max(2) {
            continue;
        }
        let at = match most_like(&open, &mean, params.similarity_min) {
            Some(at) => at,
            None => {
                // The one in the middle speaks for all.
                let like = |vector: &[f32]| cosine(vector, &mean).unwrap_or(-1.0);
                let seed = members.iter().max_by(|a, b| like(a.1).total_cmp(&like(b.1)).then(b.0.id.cmp(&a.0.id)));
                let Some((seed, _)) = seed else { continue };
                open.push(OpenTopic::begun_by(seed, params));
                open.len() - 1
            }
        };
        members.iter().for_each(|(event, vector)| open[at].take(event, vector));
    }
    nodes::write_down(&mut plan, params, &open, now);
    plan.counts.processed = events.len() as u64;
    plan
}

/// Events by group, in the order given.
pub fn events_by_group(events: &[SourceNode]) -> BTreeMap<TopicGroup, Vec<&SourceNode>> {
    let mut groups: BTreeMap<TopicGroup, Vec<&SourceNode>> = BTreeMap::new();
    for event in events.iter().filter(|event| is_eligible(event)) {
        if let Some(group) = group_of(event) {
            groups.entry(group).or_default().push(event);
        }
    }
    groups
}

fn by_group<'a>(mut topics: Vec<KnownTopic>) -> BTreeMap<TopicGroup, Vec<OpenTopic<'a>>> {
    topics.sort_by_key(|topic| topic.node.id);
    topics.dedup_by_key(|topic| topic.node.id);
    let mut groups: BTreeMap<TopicGroup, Vec<OpenTopic<'a>>> = BTreeMap::new();
    for topic in topics.into_iter().filter(|topic| is_open(&topic.node)) {
        if let Some(group) = group_of(&topic.node) {
            groups.entry(group).or_default().push(OpenTopic::stored(topic));
        }
    }
    groups
}

fn most_like(open: &[OpenTopic<'_>], vector: &[f32], similarity_min: f64) -> Option<usize> {
    let like = open.iter().enumerate().filter_map(|(at, topic)| Some((at, cosine(&topic.vector, vector)?)));
    let best = like.max_by(|a, b| a.1.total_cmp(&b.1).then(open[b.0].id.cmp(&open[a.0].id)))?;
    (best.1 >= similarity_min).then_some(best.0)
}

fn mean_of<'v>(vectors: impl Iterator<Item = &'v [f32]>) -> Option<Vec<f32>> {
    let mut sum = Sum::default();
    vectors.for_each(|vector| sum.add(vector));
    sum.mean()
}

/// Vectors added up.
#[derive(Clone, Debug, Default)]
struct Sum {
    of: Vec<f64>,
    count: u64,
}

impl Sum {
    fn of_mean(mean: &[f32], count: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "members of one topic are far fewer than 2^52")]
        let times = count as f64;
        Self { of: mean.iter().map(|x| f64::from(*x) * times).collect(), count }
    }

    fn add(&mut self, vector: &[f32]) {
        if self.of.is_empty() {
            self.of = vec![0.0; vector.len()];
        }
        self.of.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(*x));
        self.count += 1;
    }

    /// The mean, unless it has no direction.
    fn mean(&self) -> Option<Vec<f32>> {
        #[expect(clippy::cast_precision_loss, reason = "members of one topic are far fewer than 2^52")]
        let count = self.count.max(1) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "vectors are kept as 32-bit floats")]
        let mean: Vec<f32> = self.of.iter().map(|sum| (sum / count) as f32).collect();
        let length: f32 = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
        length.is_normal().then_some(mean)
    }
}

/// Where a topic comes from.
#[derive(Clone, Debug)]
enum Origin<'a> {
    /// It is stored.
    Stored(Box<SourceNode>),
    /// This event begins it.
    Begun(&'a SourceNode),
}

/// A topic that takes events.
#[derive(Clone, Debug)]
struct OpenTopic<'a> {
    id: NodeId,
    origin: Origin<'a>,
    /// Whether it was made here: its vector follows its members.
    ours: bool,
    /// Members before this plan.
    members: u64,
    sum: Sum,
    vector: Vec<f32>,
    joined: Vec<(&'a SourceNode, &'a [f32])>,
}

impl<'a> OpenTopic<'a> {
    fn stored(topic: KnownTopic) -> Self {
        let ours = nodes::is_ours(&topic.node);
        let sum = topic.members.mean.as_ref().map(|mean| Sum::of_mean(mean, topic.members.with_vector));
        let own = topic.node.vector.clone().unwrap_or_default();
        let vector = topic.members.mean.clone().filter(|_| ours).unwrap_or(own);
        Self {
            id: topic.node.id,
            ours,
            members: topic.members.members,
            sum: sum.unwrap_or_default(),
            vector,
            joined: Vec::new(),
            origin: Origin::Stored(Box::new(topic.node)),
        }
    }

    fn begun_by(seed: &'a SourceNode, params: &ClusterParams) -> Self {
        Self {
            id: nodes::topic_id(&params.reference_key, seed),
            origin: Origin::Begun(seed),
            ours: true,
            members: 0,
            sum: Sum::default(),
            vector: Vec::new(),
            joined: Vec::new(),
        }
    }

    fn take(&mut self, event: &'a SourceNode, vector: &'a [f32]) {
        self.sum.add(vector);
        self.joined.push((event, vector));
        if self.ours {
            // A mean without direction says nothing; the one before stands.
            if let Some(mean) = self.sum.mean() {
                self.vector = mean;
            } else if self.vector.is_empty() {
                self.vector = vector.to_vec();
            }
        }
    }

    fn stored_as(&self) -> Option<&SourceNode> {
        match &self.origin {
            Origin::Stored(node) => Some(node),
            Origin::Begun(_) => None,
        }
    }

    fn count(&self) -> u64 {
        self.members + self.joined.len() as u64
    }
}
