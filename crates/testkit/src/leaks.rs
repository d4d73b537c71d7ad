//! Asserts that what is written in a node is read nowhere by who may not read it there.

use std::collections::{BTreeMap, HashMap, HashSet};

use aionis_core::{
    ids::{NodeId, ScopeKey},
    jobs::Audience,
    model::Viewer,
    ports::store::{DenseQuery, LexicalQuery, SourceNode, Store},
    text::query_terms,
};

use crate::{fixtures::everything, stored_nodes};

/// Versions looked at of each node.
const VERSIONS_MAX: usize = 1_000;
/// Hits of a question.
const HITS_MAX: usize = 50;

/// Words, each of which is written in one node only, and that node.
pub type Words = BTreeMap<String, NodeId>;

/// A word that somebody finds and may not read where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Leak {
    /// The word; nothing where a node is found that may not be seen.
    pub word: Option<String>,
    /// Where it is found.
    pub node: NodeId,
    /// By whom.
    pub viewer: Viewer,
}

struct Stored<'a> {
    audiences: HashMap<NodeId, Audience>,
    viewers: &'a [Viewer],
}

impl Stored<'_> {
    fn sees(&self, viewer: &Viewer, node: NodeId) -> bool {
        self.audiences.get(&node).is_some_and(|audience| audience.includes(viewer))
    }

    /// Who sees a node and not the other one.
    fn outsiders(&self, node: NodeId, source: NodeId) -> impl Iterator<Item = &Viewer> {
        self.viewers.iter().filter(move |viewer| self.sees(viewer, node) && !self.sees(viewer, source))
    }
}

fn known<'w>(text: &str, words: &'w Words) -> HashSet<(&'w String, NodeId)> {
    let pieces = text.split(|c: char| !c.is_alphanumeric());
    pieces.filter_map(|piece| words.get_key_value(piece)).map(|(word, node)| (word, *node)).collect()
}

/// Everything a node says, and, of what nobody wrote by hand, all it ever said.
async fn said(store: &dyn Store, scope: &ScopeKey, node: &SourceNode, by_hand: bool) -> String {
    let texts = [&node.title, &node.text_summary].into_iter().flatten().cloned();
    let notes = node.activity.iter().map(ToString::to_string);
    let mut all: Vec<String> = texts.chain([node.slots.to_string()]).chain(notes).collect();
    if !by_hand {
        let history = store.history(scope, node.id, None, VERSIONS_MAX).await.expect("a history can be read");
        all.extend(history.iter().map(|version| version.content.to_string()));
    }
    all.join(" ")
}

/// Words in nodes that somebody may see who may not see the node the word was written in, or after that one is gone.
pub async fn leaks(store: &dyn Store, scope: &ScopeKey, words: &Words, viewers: &[Viewer]) -> Vec<Leak> {
    let nodes = stored_nodes(store, scope).await;
    let audiences = nodes.iter().map(|node| (node.id, node.audience.clone())).collect();
    let stored = Stored { audiences, viewers };
    let by_hand: HashSet<NodeId> = words.values().copied().collect();
    let mut found = Vec::new();
    for node in &nodes {
        let said = said(store, scope, node, by_hand.contains(&node.id)).await;
        for (word, source) in known(&said, words).into_iter().filter(|(_, source)| *source != node.id) {
            let leak = |viewer: &Viewer| Leak { word: Some(word.clone()), node: node.id, viewer: viewer.clone() };
            found.extend(stored.outsiders(node.id, source).map(leak));
        }
    }
    found
}

/// The same by asking: what each viewer finds by words and by vectors.
pub async fn found_by_asking(
    store: &dyn Store,
    scope: &ScopeKey,
    (words, vectors): (&Words, &[Vec<f32>]),
    viewers: &[Viewer],
) -> Vec<Leak> {
    let nodes = stored_nodes(store, scope).await;
    let stored = Stored { audiences: nodes.into_iter().map(|node| (node.id, node.audience)).collect(), viewers };
    let mut found = Vec::new();
    for viewer in viewers {
        let leak = |word: Option<&String>, node| Leak { word: word.cloned(), node, viewer: viewer.clone() };
        for vector in vectors {
            let (scope, vector) = (scope.clone(), vector.clone());
            let query = DenseQuery {
                scope,
                filter: everything(viewer.clone()),
                vector,
                limit: HITS_MAX,
                scored: HITS_MAX,
                exact: true,
            };
            let hits = store.dense(query).await.expect("vectors can be compared");
            found.extend(hits.iter().filter(|hit| !stored.sees(viewer, hit.id)).map(|hit| leak(None, hit.id)));
        }
        for (word, source) in words {
            let (scope, terms) = (scope.clone(), query_terms(word));
            let query = LexicalQuery { scope, filter: everything(viewer.clone()), terms, limit: HITS_MAX };
            let docs = store.lexical(query).await.expect("words can be looked for").docs;
            let unseen = |id: NodeId| !stored.sees(viewer, id) || !stored.sees(viewer, *source);
            found.extend(docs.iter().filter(|doc| unseen(doc.id)).map(|doc| leak(Some(word), doc.id)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{DIM, WriteBuilder},
        fixtures::{agent, anyone, node_id, scope},
        sqlite::TempStore,
    };

    #[tokio::test]
    async fn a_private_word_that_is_repeated_to_all_is_found() {
        let (temp, s) = (TempStore::new(), scope("s"));
        let write = WriteBuilder::new(&s)
            .node("private", "zqbc is a secret")
            .private(Some("ann"), None)
            .vector(vec![1.0; DIM])
            .node("own", "she knows zqbc")
            .private(Some("ann"), None)
            .node("shared", "known");
        let store = temp.port();
        store.write(write.prepared()).await.unwrap();
        let words = Words::from([("zqbc".to_owned(), node_id(&s, "private"))]);
        let (viewers, vectors) = ([anyone(), agent("ann"), agent("bob")], [vec![1.0; DIM]]);
        assert_eq!(leaks(&*store, &s, &words, &viewers).await, []);
        assert_eq!(found_by_asking(&*store, &s, (&words, &vectors), &viewers).await, []);
        store.write(WriteBuilder::new(&s).node("shared", "they say zqbc").prepared()).await.unwrap();
        let leak = |viewer: &Viewer| Leak {
            word: Some("zqbc".to_owned()),
            node: node_id(&s, "shared"),
            viewer: viewer.clone(),
        };
        let wanted = [leak(&viewers[0]), leak(&viewers[2])];
        assert_eq!(leaks(&*store, &s, &words, &viewers).await, wanted);
        assert_eq!(found_by_asking(&*store, &s, (&words, &vectors), &viewers).await, wanted);
        // What was rewritten says it still, to who asks for what it said.
        store.write(WriteBuilder::new(&s).node("shared", "nothing").prepared()).await.unwrap();
        assert_eq!(leaks(&*store, &s, &words, &viewers).await, wanted);
        assert_eq!(found_by_asking(&*store, &s, (&words, &vectors), &viewers).await, []);
    }
}
