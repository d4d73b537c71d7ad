//! What the demo writes and asks.

use serde_json::{Value, json};

/// The memory that is to be found.
pub(super) const MEMORY: &str = "Priya is severely allergic to peanuts and carries an adrenaline injector.";

/// Questions in other words, and questions about other things.
pub(super) const QUESTIONS: [(&str, &str); 4] = [
    ("Which nuts or foods could trigger an allergic reaction in our guest?", "paraphrase"),
    ("What medical emergency should the kitchen prepare for, such as anaphylaxis?", "paraphrase"),
    ("When does the train to the airport leave?", "control"),
    ("Which database does the billing service use?", "control"),
];

/// Other memories of an agent that plans an off-site meeting.
pub(super) const DISTRACTORS: [&str; 30] = [
    "The off-site takes place in the mountain lodge from the third to the fifth of June.",
    "The airport train leaves every twenty minutes from platform two.",
    "The billing service stores its invoices in PostgreSQL.",
    "Jonas wants a room on the ground floor because of his knee.",
    "The lodge has a sauna that must be booked one day ahead.",
    "Mei prefers tea in the morning and does not drink coffee.",
    "The projector in the large meeting room needs an HDMI adapter.",
    "Everyone votes on the team name by Friday evening.",
    "The hiking trail around the lake is nine kilometres long.",
    "Samuel arrives one day late because of a wedding.",
    "The budget for the off-site is twelve thousand euros.",
    "The wireless network of the lodge is slow in the upper floors.",
    "The bus company confirmed the transfer for twenty-two people.",
    "Lena organises the board game evening on Thursday.",
    "The retrospective is moderated by an external coach.",
    "The deploy pipeline fails when two releases run at the same time.",
    "Customers asked for an export of their reports as spreadsheets.",
    "The staging cluster is rebuilt every Sunday night.",
    "Ahmed keeps the keys of the storage room.",
    "The quarterly figures are presented by the finance team.",
    "The office plants are watered on Mondays and Thursdays.",
    "A new laptop for the intern was ordered last week.",
    "The support hotline is closed on public holidays.",
    "The logo on the website should be ten percent larger.",
    "Parking at the lodge is free but limited to eight cars.",
    "The photo of the last off-site hangs in the hallway.",
    "Invoices above five thousand euros need two signatures.",
    "The coffee machine on the second floor is being repaired.",
    "Translations into Portuguese are due at the end of the month.",
    "The security training has to be repeated every year.",
];

fn body(scope: &str, input: &str, texts: &[&str], prefix: &str) -> Value {
    let nodes: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| {
            json!({
                "client_id": format!("{prefix}-{at}"),
                "type": "event",
                "memory_lane": "shared",
                "text_summary": text,
            })
        })
        .collect();
    json!({ "scope": scope, "actor": "demo", "input_text": input, "nodes": nodes })
}

pub(super) fn distractors(scope: &str) -> Value {
    body(scope, "notes on the off-site and other work", &DISTRACTORS, "note")
}

pub(super) fn the_memory(scope: &str) -> Value {
    body(scope, "a note on a guest", &[MEMORY], "guest")
}
