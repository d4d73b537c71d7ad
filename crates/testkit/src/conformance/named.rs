//! Nodes named in a question.

use aionis_core::{
    derive_id,
    ids::NodeId,
    model::Tier,
};

use super::Subject;
use crate::fixtures::{TENANT, WriteBuilder, agent, anyone, everything, node_id, scope};

/// Three ways to name a node.
pub async fn a_node_is_named_by_title_client_id_or_id(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s).node("person:ann", "x").title("Ann  Müller").node("B-2", "y").title("Running Shoes");
    subject.write(write).await;
    let (ann, shoes) = (node_id(&s, "person:ann"), node_id(&s, "B-2"));
    assert_eq!(subject.named(&s, &["ann muller"], &[]).await, [ann], "analysed like the question");
    assert_eq!(subject.named(&s, &["ann", "muller", "run shoe", "shoe"], &[]).await, [shoes], "the whole title only");
    assert_eq!(subject.named(&s, &[], &["person:ann"]).await, [ann]);
    assert!(subject.named(&s, &[], &["b-2", "person"]).await.is_empty(), "literals are exact");
    assert_eq!(subject.named(&s, &[], &[&shoes.to_string()]).await, [shoes]);
    let mut both = [ann, shoes];
    both.sort_unstable();
    let all = subject.named(&s, &["ann muller", "run shoe"], &["B-2", "person:ann", &ann.to_string()]).await;
    assert_eq!(all, both, "each once, ordered by id");
    assert!(subject.named(&scope("t"), &["ann muller"], &["B-2", &ann.to_string()]).await.is_empty());
    let hidden = WriteBuilder::new(&s).node("mine", "z").title("Diary").private(Some("ann"), None);
    subject.write(hidden).await;
    assert!(subject.named(&s, &["diari"], &["mine"]).await.is_empty());
    assert_eq!(subject.named_for(&s, everything(agent("ann")), &["diari"], &["mine"], 5).await, [node_id(&s, "mine")]);
    subject.write(WriteBuilder::new(&s).node("B-2", "y").title("Running Shoes").with(|n| n.tier = Some(Tier::Archive))).await;
    assert!(subject.named(&s, &["run shoe"], &["B-2"]).await.is_empty());
}

/// A sentence is not a name.
pub async fn a_long_title_is_no_name(subject: &Subject) {
    let s = scope("s");
    let write = WriteBuilder::new(&s).node("a", "").title("one two three four five");
    subject.write(write.node("b", "").title("one two three four five six").node("c", "").title("?!")).await;
    assert_eq!(subject.named(&s, &["one two three four five"], &[]).await, [node_id(&s, "a")]);
    assert!(subject.named(&s, &["one two three four five six", "", "?!"], &[]).await.is_empty());
}

/// A renamed node is found by its new name only.
pub async fn a_title_given_up_names_no_more(subject: &Subject) {
    let (s, a) = (scope("s"), node_id(&scope("s"), "a"));
    let named = |title: &str| WriteBuilder::new(&s).node("a", "x").title(title);
    subject.write(named("first").node("b", "y").title("first")).await;
    assert_eq!(subject.named(&s, &["first"], &[]).await.len(), 2);
    subject.write(named("second")).await;
    assert_eq!(subject.named(&s, &["first"], &[]).await, [node_id(&s, "b")]);
    assert_eq!(subject.named(&s, &["second"], &[]).await, [a]);
    subject.write(WriteBuilder::new(&s).node("a", "x")).await;
    assert!(subject.named(&s, &["second"], &[]).await.is_empty());
    subject.write(named("first").input("back")).await;
    assert_eq!(subject.named(&s, &["first"], &[]).await.len(), 2);
}

/// A node that was written again by its id alone has no client id any more.
pub async fn a_client_id_given_up_names_no_more(subject: &Subject) {
    let s = scope("s");
    let id = derive_id::node_id_by_client_id(&derive_id::reference_scope_key(TENANT, "s", TENANT), "a");
    subject.write(WriteBuilder::new(&s).node("a", "x")).await;
    assert_eq!(subject.named(&s, &[], &["a"]).await, [NodeId(id)]);
    let by_id = WriteBuilder::new(&s).node("a", "x").with(|node| (node.id, node.client_id) = (Some(id), None));
    assert_eq!(subject.write(by_id).await.nodes, [(NodeId(id), "updated".to_owned())]);
    assert_eq!(subject.row(&s, NodeId(id)).await.client_id, None);
    assert!(subject.named(&s, &[], &["a"]).await.is_empty());
    assert_eq!(subject.named(&s, &[], &[&id.to_string()]).await, [NodeId(id)]);
    subject.write(WriteBuilder::new(&s).input("again").node("a", "x")).await;
    assert_eq!(subject.named(&s, &[], &["a"]).await, [NodeId(id)]);
}

/// A node named twice counts once, and which nodes a limit keeps depends on nothing but the nodes: those named
/// literally first, then the lowest ids.
pub async fn a_limit_counts_nodes_and_takes_them_in_a_fixed_order(subject: &Subject) {
    let s = scope("s");
    let names = ["a", "b", "c", "d", "e"];
    let write = names.iter().fold(WriteBuilder::new(&s), |write, id| write.node(id, "x").title("Same"));
    subject.write(write).await;
    let mut ids: Vec<NodeId> = names.iter().map(|id| node_id(&s, id)).collect();
    ids.sort_unstable();
    let ask = |literals: Vec<String>, limit: usize| {
        let s = s.clone();
        async move {
            let literals: Vec<&str> = literals.iter().map(String::as_str).collect();
            subject.named_for(&s, everything(anyone()), &["same"], &literals, limit).await
        }
    };
    assert_eq!(ask(vec![], 3).await, ids[..3]);
    let last = ids[4].to_string();
    assert_eq!(ask(vec![last.clone()], 2).await, [ids[0], ids[4]]);
    assert_eq!(ask(vec![last.clone(), last], 1).await, [ids[4]]);
    // Titles that go and come back change nothing about the order.
    for id in ["b", "a"] {
        subject.write(WriteBuilder::new(&s).node(id, "x").title("Other")).await;
        subject.write(WriteBuilder::new(&s).input("back").node(id, "x").title("Same")).await;
    }
    assert_eq!(ask(vec![], 3).await, ids[..3]);
}
