//! How well duplicates are found, and whether merging them loses nothing, at size.

use std::{collections::BTreeSet, time::Instant};

use aionis_core::{
    ids::NodeId,
    jobs::consolidation::{CandidateState, UndoWhich},
};
use aionis_testkit::{
    assert_sound,
    fixtures::{Rng, WriteBuilder, scope},
};
use serde_json::{Value, json};

use super::{
    ConsolidationRedirect, ConsolidationUndo,
    tests::{Place, applying, concept, looking, near, ordered, place, queued, run, write},
};

/// Nodes of their own, and one duplicate for every nineteenth of them.
const ORIGINALS: usize = 9_500;
/// Nodes of one write.
const CHUNK: usize = 950;

/// A word of letters alone for a number: other numbers would send a pair to review.
fn word(mut n: usize) -> String {
    let mut word = "w".to_owned();
    while n > 0 {
        word.push(char::from(b'a' + u8::try_from(n % 26).unwrap()));
        n /= 26;
    }
    word + "x"
}

/// Writes the nodes, three edges for each, and returns the planted pairs.
async fn plant(place: &Place) -> BTreeSet<(NodeId, NodeId)> {
    let s = scope("s");
    let (mut rng, mut noise) = (Rng::new(42), Rng::new(43));
    let texts: Vec<Vec<String>> = (0..ORIGINALS).map(|_| (0..8).map(|_| word(rng.below(4_000))).collect()).collect();
    let mut planted = BTreeSet::new();
    let mut written: Vec<String> = Vec::new();
    for chunk in 0..ORIGINALS / CHUNK {
        let mut all = WriteBuilder::new(&s).input(&format!("chunk {chunk}"));
        let first = written.len();
        for (n, words) in texts.iter().enumerate().skip(chunk * CHUNK).take(CHUNK) {
            all = concept(all, &format!("n{n}"), &words.join(" "), near(n as u64, 0.0));
            written.push(format!("n{n}"));
            if n % 19 == 0 {
                // One word of eight is another one; the vector is a little off.
                let mut words = words.clone();
                words[noise.below(8)] = word(noise.below(4_000));
                let off = 0.05 + 0.4 * noise.unit().abs();
                all = concept(all, &format!("d{n}"), &words.join(" "), near(n as u64, off));
                written.push(format!("d{n}"));
                // Between the two, and from both to a third: a loop and two edges that become one.
                all = all.edge(&format!("d{n}"), &format!("n{n}"));
                if n > 0 {
                    let third = format!("n{}", n - 1);
                    all = all.edge(&format!("d{n}"), &third).strength(0.9, 0.1).edge(&format!("n{n}"), &third);
                }
                planted.insert(ordered(&s, &format!("n{n}"), &format!("d{n}")));
            }
        }
        for from in first..written.len() {
            let ends: BTreeSet<usize> =
                (0..3).map(|_| noise.below(written.len())).filter(|to| to.abs_diff(from) > 2).collect();
            for to in ends {
                let weight = f64::from(u32::try_from(noise.below(100)).unwrap()) / 100.0;
                all = all.edge(&written[from], &written[to]).strength(weight, 1.0 - weight);
            }
        }
        write(place, all).await;
    }
    planted
}

fn share(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { f64::from(u32::try_from(part).unwrap()) / f64::from(u32::try_from(of).unwrap()) }
}

/// 10,000 nodes with 500 planted duplicates among them: prints which share of the planted pairs is found and which share of
/// the found ones was planted; then all of it is merged, the edges are moved, and it is taken back.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures are what it is run for")]
#[ignore = "takes minutes; scripts/consolidation-eval.sh runs it"]
async fn planted_duplicates_are_found_merged_and_taken_back_among_ten_thousand_nodes() {
    let (place, s) = (place(), scope("s"));
    let planted = plant(&place).await;
    assert_eq!(planted.len(), 500);
    let before = place.temp.graph(&s);
    let started = Instant::now();
    let found = run(&place, &looking()).await;
    let finding = started.elapsed();
    let (open, review) =
        (queued(&place, &s, CandidateState::Open).await, queued(&place, &s, CandidateState::Review).await);
    let pairs: BTreeSet<_> = open.union(&review).copied().collect();
    let right = pairs.intersection(&planted).count();
    let started = Instant::now();
    let applied = run(&place, &applying(500)).await;
    let moved = run(&place, &ConsolidationRedirect { aliases: 200 }).await;
    let merging = started.elapsed();
    assert_sound(&*place.store).await;
    let merged = place.temp.graph(&s);
    let started = Instant::now();
    let undo = ConsolidationUndo { which: UndoWhich::Run(applied.targets[0].run_id), force: false };
    let undone = run(&place, &undo).await;
    let undoing = started.elapsed();
    let (precision, recall) = (share(right, pairs.len()), share(right, planted.len()));
    let figures = json!({
        "nodes": 10_000, "planted": planted.len(), "found": pairs.len(), "right": right, "under_review": review.len(),
        "precision": precision, "recall": recall,
        "finding_seconds": finding.as_secs_f64(), "merging_seconds": merging.as_secs_f64(),
        "undoing_seconds": undoing.as_secs_f64(),
        "candidates": Value::from(found.total), "apply": Value::from(applied.total.clone()),
        "redirect": Value::from(moved.total.clone()), "undo": Value::from(undone.total.clone()),
    });
    println!("{figures:#}");
    assert!(applied.ok && moved.ok && undone.ok);
    assert_eq!(applied.total.number("applied_pairs"), open.len() as u64);
    let number = |name| moved.total.number(name);
    let parts = number("redirected_edges") + number("merged_into_existing") + number("dropped_self_loops");
    assert_eq!((number("touched_edges"), number("deleted_alias_edges")), (parts, parts));
    assert!(parts > 2_000 && number("dropped_self_loops") > 400 && number("merged_into_existing") > 400);
    assert!(merged != before);
    assert_eq!(undone.total.number("restored_edges"), number("touched_edges"));
    assert!(place.temp.graph(&s) == before, "taken back byte for byte");
    assert_sound(&*place.store).await;
    assert!(precision > 0.95 && recall > 0.9, "{precision} {recall}");
}
