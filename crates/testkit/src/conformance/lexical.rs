//! Documents by their words.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use aionis_core::{
    ids::NodeId,
    ports::store::{LexicalQuery, Store},
    text,
};
use tokio::task::JoinSet;

use super::Subject;
use crate::{
    assert_sound,
    fixtures::{Rng, WriteBuilder, agent, anyone, everything, node_id, scope, scope_of},
};

/// Read your writes, with and without the lists in memory.
pub async fn a_word_is_found_as_soon_as_its_write_returns(subject: &Subject) {
    let s = scope("s");
    for n in 0..30_usize {
        let word = format!("word{n}");
        subject.write(WriteBuilder::new(&s).node(&word, &format!("Common {word}")).title("Zürich")).await;
        assert_eq!(subject.found(&s, &word).await, [node_id(&s, &word)]);
        for common in ["commons", "zurich"] {
            assert_eq!(subject.words(&s, common).await.doc_freq, [n as u64 + 1]);
        }
    }
}

/// The numbers BM25 needs, against a count by hand.
pub async fn statistics_are_those_of_the_documents(subject: &Subject) {
    let s = scope("s");
    let docs = [
        ("a", Some("red apple"), "the apple fell; apples fall"),
        ("b", None, "a red car"),
        ("c", Some("苹果 red"), "blue blue blue sky"),
        ("d", Some("only a title"), ""),
        ("e", None, ""),
    ];
    let mut write = WriteBuilder::new(&s);
    for (id, title, summary) in docs {
        write = write.node(id, summary).with(|node| node.title = title.map(str::to_owned));
    }
    subject.write(write).await;
    let terms: Vec<String> = ["red", "appl", "blue", "苹果", "none"].map(str::to_owned).to_vec();
    let query = LexicalQuery { scope: s.clone(), filter: everything(anyone()), terms: terms.clone(), limit: 10 };
    let hits = subject.store.lexical(query).await.unwrap();
    let counted: Vec<text::TermCounts> = docs
        .iter()
        .map(|(_, title, summary)| text::term_counts(&[title.unwrap_or_default(), summary]))
        .filter(|counts| counts.len > 0)
        .collect();
    assert_eq!(hits.total_docs, 4, "a node without words is no document");
    let mean = counted.iter().map(|c| f64::from(c.len)).sum::<f64>() / 4.0;
    assert!((hits.mean_len - mean).abs() < 1e-9, "{} {mean}", hits.mean_len);
    assert_eq!(hits.doc_freq, [3, 1, 1, 1, 0]);
    assert_eq!(hits.docs.len(), 3);
    for doc in &hits.docs {
        let at = docs.iter().position(|(id, ..)| node_id(&s, id) == doc.id).unwrap();
        let wanted = &counted[at];
        let count_of = |term: &String| wanted.terms.iter().find(|(t, _)| t == term).map_or(0, |(_, count)| *count);
        let counts: Vec<u32> = doc.counts.iter().map(|&count| u32::from(count)).collect();
        assert_eq!(counts, terms.iter().map(count_of).collect::<Vec<_>>(), "{}", docs[at].0);
        assert_eq!(doc.len, wanted.len);
    }
}

/// The order is that of the scores, and a limit keeps the best.
pub async fn the_best_by_bm25_come_first_ties_by_id(subject: &Subject) {
    let s = scope("s");
    let mut rng = Rng::new(9);
    let words = ["alder", "birch", "cedar", "dogwood", "elm", "fir"];
    let mut write = WriteBuilder::new(&s);
    for n in 0..120 {
        let text: Vec<&str> = (0..=rng.below(8)).map(|_| words[rng.below(words.len())]).collect();
        write = write.node(&format!("n{n}"), &text.join(" "));
    }
    subject.write(write).await;
    let everyone = || everything(anyone());
    let all = subject.words_for(&s, everyone(), "alder birch elm", 1000).await;
    let idfs = all.idfs();
    let mut by_hand: Vec<(f64, NodeId)> = all.docs.iter().map(|doc| (all.score_doc(&idfs, doc), doc.id)).collect();
    for pair in by_hand.windows(2) {
        assert!(pair[0].0 >= pair[1].0 - 1e-5, "{pair:?}");
    }
    by_hand.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let ids = |hits: &aionis_core::recall::bm25::LexicalHits| hits.docs.iter().map(|doc| doc.id).collect::<Vec<_>>();
    assert_eq!(ids(&all), by_hand.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    let best = subject.words_for(&s, everyone(), "alder birch elm", 7).await;
    assert_eq!(ids(&best), ids(&all)[..7]);
    assert_eq!(best.doc_freq, all.doc_freq, "a limit does not change the statistics");
}

/// Words that are gone are gone, whether their list was in use before or not.
pub async fn an_update_removes_old_words(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).node("a", "kept seen unseen unseen").node("b", "kept seen unseen other")).await;
    assert_eq!(subject.found(&s, "seen").await.len(), 2);
    subject.write(WriteBuilder::new(&s).node("a", "kept new").title("fresh")).await;
    let b = node_id(&s, "b");
    assert_eq!(subject.found(&s, "seen").await, [b], "its list was in use");
    assert_eq!(subject.found(&s, "unseen").await, [b], "its list was not in use");
    let hits = subject.words(&s, "kept new fresh seen unseen").await;
    assert_eq!(hits.doc_freq, [2, 1, 1, 1, 1]);
    assert_eq!(hits.total_docs, 2);
    assert!((hits.mean_len - 3.5).abs() < 1e-9);
    subject.write(WriteBuilder::new(&s).node("a", "")).await;
    let hits = subject.words(&s, "kept new fresh").await;
    assert_eq!((hits.total_docs, hits.doc_freq), (1, vec![1, 0, 0]), "a node that lost its words is no document");
    subject.write(WriteBuilder::new(&s).node("a", "kept")).await;
    assert_eq!(subject.words(&s, "kept").await.doc_freq, [2]);
}

/// Several updates inside one transaction leave one document.
pub async fn updates_folded_together_leave_the_last_words(subject: &Subject) {
    let s = scope("s");
    let mut tasks = JoinSet::new();
    for n in 0..40 {
        let (store, s) = (Arc::clone(&subject.store), s.clone());
        tasks.spawn(async move {
            let write = WriteBuilder::new(&s).node(&format!("n{}", n % 4), &format!("common common word{n}"));
            store.write(write.prepared()).await.unwrap().commit_seq
        });
    }
    tasks.join_all().await;
    let hits = subject.words(&s, "common").await;
    assert_eq!((hits.total_docs, &hits.doc_freq), (4, &vec![4]));
    assert!(hits.docs.iter().all(|doc| doc.counts[..] == [2] && doc.len == 3));
    let mut left = 0;
    for n in 0..40 {
        left += subject.found(&s, &format!("word{n}")).await.len();
    }
    assert_eq!(left, 4);
}

/// Frequencies are a scope's own, whoever else uses the words.
pub async fn other_scopes_and_tenants_do_not_count(subject: &Subject) {
    let scopes = [scope("s"), scope("t"), scope("s2"), scope_of("other", "s"), scope_of("default2", "s")];
    for (n, scope) in scopes.iter().enumerate() {
        for doc in 0..=n {
            subject.write(WriteBuilder::new(scope).node(&format!("n{doc}"), "common words")).await;
        }
    }
    for (n, scope) in scopes.iter().enumerate() {
        let hits = subject.words(scope, "common").await;
        assert_eq!((hits.total_docs, hits.doc_freq, hits.docs.len()), (n as u64 + 1, vec![n as u64 + 1], n + 1));
        assert!(hits.docs.iter().all(|doc| (0..=n).any(|doc_no| doc.id == node_id(scope, &format!("n{doc_no}")))));
    }
    let nothing = subject.words(&scope("unwritten"), "common").await;
    assert_eq!((nothing.total_docs, nothing.doc_freq, nothing.docs.len()), (0, vec![0], 0));
}

/// What a viewer may not see is not returned; the numbers do not depend on the viewer.
pub async fn a_filter_hides_documents_but_keeps_the_statistics(subject: &Subject) {
    let s = scope("s");
    let mut write = WriteBuilder::new(&s);
    for n in 0..100 {
        let owner = if n % 50 == 0 { "ann" } else { "bob" };
        // Bob's documents are better answers than Ann's.
        let text = if owner == "ann" { "needle among many other words of hay" } else { "needle" };
        write = write.node(&format!("n{n}"), text).private(Some(owner), None);
    }
    subject.write(write).await;
    let hits = subject.words_for(&s, everything(agent("ann")), "needle", 10).await;
    let mut found: Vec<NodeId> = hits.docs.iter().map(|doc| doc.id).collect();
    let mut wanted = vec![node_id(&s, "n0"), node_id(&s, "n50")];
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert_eq!((hits.total_docs, hits.doc_freq), (100, vec![100]));
}

/// Readers that ask for words nobody asked for before, while a writer adds documents that hold them: each sees at least
/// what was answered before it asked, and nothing is missing at the end.
pub async fn writes_while_posting_lists_load_are_not_lost(subject: &Subject) {
    const BEFORE: u64 = 1_200;
    const MORE: u64 = 150;
    const WORDS: usize = 40;
    let s = scope("s");
    // Digits and letters are not stemmed.
    let all_words: Vec<String> = (0..WORDS).map(|n| format!("w{n}")).collect();
    let text = all_words.join(" ");
    let mut write = WriteBuilder::new(&s);
    for n in 0..BEFORE {
        write = write.node(&format!("n{n}"), &text);
    }
    subject.write(write).await;
    let (written, next) = (Arc::new(AtomicU64::new(BEFORE)), Arc::new(AtomicUsize::new(0)));
    let mut readers = JoinSet::new();
    for _ in 0..2 {
        let (store, s): (Arc<dyn Store>, _) = (Arc::clone(&subject.store), s.clone());
        let (written, next, words) = (Arc::clone(&written), Arc::clone(&next), all_words.clone());
        readers.spawn(async move {
            while written.load(Ordering::SeqCst) < BEFORE + MORE {
                let before = written.load(Ordering::SeqCst);
                let terms = vec![words[next.fetch_add(1, Ordering::SeqCst) % WORDS].clone()];
                let query = LexicalQuery { scope: s.clone(), filter: everything(anyone()), terms, limit: 10 };
                let hits = store.lexical(query).await.unwrap();
                assert!(hits.doc_freq[0] >= before && hits.total_docs >= before, "{hits:?}, {before} were written");
                tokio::task::yield_now().await;
            }
        });
    }
    for n in BEFORE..BEFORE + MORE {
        subject.write(WriteBuilder::new(&s).node(&format!("n{n}"), &text)).await;
        written.store(n + 1, Ordering::SeqCst);
    }
    super::soon("the end of reading", readers.join_all()).await;
    for word in &all_words {
        let hits = subject.words(&s, word).await;
        assert_eq!((hits.total_docs, hits.doc_freq), (BEFORE + MORE, vec![BEFORE + MORE]), "{word}");
    }
    for n in (BEFORE..BEFORE + MORE).step_by(3) {
        subject.write(WriteBuilder::new(&s).node(&format!("n{n}"), "rare")).await;
    }
    assert_eq!(
        subject.words(&s, "w0 rare w39").await.doc_freq,
        [BEFORE + MORE * 2 / 3, MORE / 3, BEFORE + MORE * 2 / 3]
    );
    assert_sound(&*subject.store).await;
}
