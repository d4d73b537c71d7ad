//! Nodes named in a question.

use aionis_core::{derive_id, ids::NodeId, model::Tier};
use uuid::Uuid;

use super::Subject;
use crate::fixtures::{TENANT, WriteBuilder, agent, everything, node_id, scope};

/// A title counts whole, analysed like the question, and of the nodes asked about only.
pub async fn a_node_is_named_by_its_whole_title(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s).node("ann", "x").title("Ann  Müller").node("b", "y").title("Running Shoes");
    subject.write(write.node("twin", "z").title("running shoe").node("untitled", "ann muller")).await;
    let ids = ["twin", "untitled", "b", "ann"].map(|id| node_id(&s, id));
    assert_eq!(subject.named(&s, &["ann muller"], &ids).await, [ids[3]]);
    assert_eq!(subject.named(&s, &["ann", "muller", "run shoe", "shoe"], &ids).await, [ids[0], ids[2]]);
    let unknown = NodeId(Uuid::from_u128(1));
    let all = ["run shoe", "ann muller", "run shoe"];
    assert_eq!(subject.named(&s, &all, &[ids[3], unknown, ids[2]]).await, [ids[3], ids[2]], "in the order asked");
    assert!(subject.named(&s, &all, &[]).await.is_empty());
    assert!(subject.named(&s, &[], &ids).await.is_empty());
    assert!(subject.named(&scope("t"), &all, &ids).await.is_empty());
}

/// A sentence is not a name.
pub async fn a_long_title_is_no_name(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s).node("a", "").title("one two three four five");
    subject.write(write.node("b", "").title("one two three four five six").node("c", "").title("?!")).await;
    let ids = ["a", "b", "c"].map(|id| node_id(&s, id));
    assert_eq!(subject.named(&s, &["one two three four five"], &ids).await, [ids[0]]);
    assert!(subject.named(&s, &["one two three four five six", "", "?!"], &ids).await.is_empty());
}

/// A renamed node is found by its new name only.
pub async fn a_title_given_up_names_no_more(subject: &Subject) {
    let s = scope("s");
    let named = |title: &str| WriteBuilder::new(&s).node("a", "x").title(title);
    let ids = ["a", "b"].map(|id| node_id(&s, id));
    subject.write(named("first").node("b", "y").title("first")).await;
    assert_eq!(subject.named(&s, &["first"], &ids).await, ids);
    subject.write(named("second")).await;
    assert_eq!(subject.named(&s, &["first"], &ids).await, [ids[1]]);
    assert_eq!(subject.named(&s, &["second"], &ids).await, [ids[0]]);
    subject.write(WriteBuilder::new(&s).node("a", "x")).await;
    assert!(subject.named(&s, &["second"], &ids).await.is_empty());
    subject.write(named("first").input("back")).await;
    assert_eq!(subject.named(&s, &["first"], &ids).await, ids);
}

/// Ids and client ids, exactly as they are; each node once, ordered by id, and only what may be seen.
pub async fn a_node_is_quoted_by_its_client_id_or_id(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("person:ann", "x").node("B-2", "y")).await;
    let (ann, b) = (node_id(&s, "person:ann"), node_id(&s, "B-2"));
    assert_eq!(subject.quoted(&s, &["person:ann"]).await, [ann]);
    assert!(subject.quoted(&s, &["b-2", "person", "ann", "", "B-2 "]).await.is_empty());
    assert_eq!(subject.quoted(&s, &[&b.to_string()]).await, [b]);
    let mut both = [ann, b];
    both.sort_unstable();
    assert_eq!(subject.quoted(&s, &["B-2", "person:ann", &ann.to_string(), "B-2"]).await, both);
    assert!(subject.quoted(&scope("t"), &["B-2", &ann.to_string()]).await.is_empty());
    subject.write(WriteBuilder::new(&s).node("mine", "z").private(Some("ann"), None)).await;
    assert!(subject.quoted(&s, &["mine", &node_id(&s, "mine").to_string()]).await.is_empty());
    assert_eq!(subject.quoted_for(&s, &everything(agent("ann")), &["mine"]).await, [node_id(&s, "mine")]);
    subject.write(WriteBuilder::new(&s).node("B-2", "y").with(|n| n.tier = Some(Tier::Archive))).await;
    assert!(subject.quoted(&s, &["B-2", &b.to_string()]).await.is_empty());
}

/// A node that was written again by its id alone has no client id any more.
pub async fn a_client_id_given_up_quotes_no_more(subject: &Subject) {
    let s = scope("s");
    let id = derive_id::node_id_by_client_id(&derive_id::reference_scope_key(TENANT, "s", TENANT), "a");
    subject.write(WriteBuilder::new(&s).node("a", "x")).await;
    assert_eq!(subject.quoted(&s, &["a"]).await, [NodeId(id)]);
    let by_id = WriteBuilder::new(&s).node("a", "x").with(|node| (node.id, node.client_id) = (Some(id), None));
    assert_eq!(subject.write(by_id).await.nodes, [(NodeId(id), "updated".to_owned())]);
    assert_eq!(subject.row(&s, NodeId(id)).await.client_id, None);
    assert!(subject.quoted(&s, &["a"]).await.is_empty());
    assert_eq!(subject.quoted(&s, &[&id.to_string()]).await, [NodeId(id)]);
    subject.write(WriteBuilder::new(&s).input("again").node("a", "x")).await;
    assert_eq!(subject.quoted(&s, &["a"]).await, [NodeId(id)]);
}
