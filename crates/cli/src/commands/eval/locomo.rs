//! The LoCoMo format: one node per turn, part of its session's topic, related to the next turn.

use std::collections::{BTreeMap, HashMap};

use aionis_core::{
    clock::Timestamp,
    derive_id,
    ids::{NodeId, ScopeKey},
    model::{EdgeType, Lane, NodeType},
    write::{EdgeInput, EndInput, NodeInput, WriteRequest},
};
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// One conversation.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) name: String,
    sessions: Vec<Session>,
    pub(super) questions: Vec<Question>,
}

#[derive(Debug)]
struct Session {
    number: u32,
    date: String,
    turns: Vec<Turn>,
}

#[derive(Debug, Deserialize)]
struct Turn {
    speaker: String,
    dia_id: String,
    text: String,
    blip_caption: Option<String>,
}

/// One question with the turns that answer it.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) category: &'static str,
    pub(super) evidence: Vec<String>,
}

#[derive(Deserialize)]
struct RawSample {
    #[serde(default)]
    sample_id: Option<String>,
    conversation: BTreeMap<String, Value>,
    qa: Vec<RawQuestion>,
}

#[derive(Deserialize)]
struct RawQuestion {
    question: String,
    category: u8,
    #[serde(default)]
    evidence: Vec<String>,
}

/// Reads a file. Questions without a usable evidence turn are left out and counted.
pub(super) fn parse(bytes: &[u8]) -> Result<(Vec<Conversation>, usize), Failure> {
    let samples: Vec<RawSample> =
        serde_json::from_slice(bytes).map_err(|e| Failure::new(format!("--data is not in the LoCoMo format: {e}")))?;
    let mut skipped = 0;
    let mut conversations = Vec::with_capacity(samples.len());
    for (at, sample) in samples.into_iter().enumerate() {
        let sessions = sessions(sample.conversation)?;
        let known: HashMap<&str, ()> =
            sessions.iter().flat_map(|s| s.turns.iter().map(|t| (t.dia_id.as_str(), ()))).collect();
        let mut questions = Vec::new();
        for raw in sample.qa {
            let evidence = evidence_ids(&raw.evidence, |id| known.contains_key(id));
            if evidence.is_empty() {
                skipped += 1;
                continue;
            }
            questions.push(Question { text: raw.question, category: category(raw.category), evidence });
        }
        let name = sample.sample_id.unwrap_or_else(|| format!("conversation-{at}"));
        conversations.push(Conversation { name, sessions, questions });
    }
    Ok((conversations, skipped))
}

/// Evidence strings may hold several ids, separated by `;` or spaces.
fn evidence_ids(raw: &[String], known: impl Fn(&str) -> bool) -> Vec<String> {
    let mut ids: Vec<String> = raw
        .iter()
        .flat_map(|text| text.split([';', ' ', ',']))
        .map(str::trim)
        .filter(|id| known(id))
        .map(str::to_owned)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

const fn category(number: u8) -> &'static str {
    match number {
        1 => "multi-hop",
        2 => "temporal",
        3 => "open-domain",
        4 => "single-hop",
        5 => "adversarial",
        _ => "other",
    }
}

fn sessions(mut conversation: BTreeMap<String, Value>) -> Result<Vec<Session>, Failure> {
    let mut sessions = Vec::new();
    let numbers: Vec<u32> = conversation.keys().filter_map(|key| key.strip_prefix("session_")?.parse().ok()).collect();
    for number in numbers {
        let Some(turns) = conversation.remove(&format!("session_{number}")) else { continue };
        let turns: Vec<Turn> =
            serde_json::from_value(turns).map_err(|e| Failure::new(format!("--data: session_{number}: {e}")))?;
        let date = conversation.get(&format!("session_{number}_date_time")).and_then(Value::as_str).unwrap_or_default();
        sessions.push(Session { number, date: date.to_owned(), turns });
    }
    sessions.sort_by_key(|session| session.number);
    Ok(sessions)
}

/// The writes of a conversation: one per session, the topic first.
pub(super) fn writes(conversation: &Conversation, scope: &ScopeKey, now: Timestamp) -> Vec<WriteRequest> {
    let mut last_of_before: Option<&str> = None;
    let mut requests = Vec::with_capacity(conversation.sessions.len());
    for session in &conversation.sessions {
        let topic = format!("session-{}", session.number);
        let title = format!("Session {} - {}", session.number, session.date);
        let mut nodes = vec![node(topic.clone(), NodeType::Topic, Some(title), None)];
        let mut edges = Vec::new();
        for turn in &session.turns {
            nodes.push(node(
                turn.dia_id.clone(),
                NodeType::Event,
                Some(turn.speaker.clone()),
                Some(text(session, turn)),
            ));
            edges.push(edge(EdgeType::PartOf, &turn.dia_id, &topic));
            if let Some(before) = last_of_before {
                edges.push(edge(EdgeType::RelatedTo, before, &turn.dia_id));
            }
            last_of_before = Some(&turn.dia_id);
        }
        // The first turn of a session does not continue the last one of the session before.
        last_of_before = None;
        requests.push(WriteRequest {
            scope: scope.clone(),
            actor: Some("eval".to_owned()),
            parent_commit_id: None,
            input_text: Some(format!("{} session {}", conversation.name, session.number)),
            input_sha256: None,
            model_version: None,
            prompt_version: None,
            auto_embed: true,
            memory_lane: Some(Lane::Shared),
            producer_agent_id: None,
            owner_agent_id: None,
            owner_team_id: None,
            force_reembed: false,
            trigger_topic_cluster: None,
            nodes,
            edges,
            idempotency: None,
            received_at: now,
            writer: None,
        });
    }
    requests
}

fn text(session: &Session, turn: &Turn) -> String {
    let photo = turn.blip_caption.as_ref().map(|caption| format!(" [shares photo: {caption}]")).unwrap_or_default();
    format!("[{}] {}: {}{photo}", session.date, turn.speaker, turn.text)
}

fn node(client_id: String, node_type: NodeType, title: Option<String>, text_summary: Option<String>) -> NodeInput {
    NodeInput {
        id: None,
        client_id: Some(client_id),
        scope: None,
        node_type,
        tier: None,
        memory_lane: None,
        producer_agent_id: None,
        owner_agent_id: None,
        owner_team_id: None,
        title,
        text_summary,
        slots: None,
        raw_ref: None,
        evidence_ref: None,
        embedding: None,
        embedding_model: None,
        salience: None,
        importance: None,
        confidence: None,
        received: None,
    }
}

fn edge(edge_type: EdgeType, src: &str, dst: &str) -> EdgeInput {
    let end = |client_id: &str| EndInput { id: None, id_as_sent: None, client_id: Some(client_id.to_owned()) };
    EdgeInput {
        id: None,
        scope: None,
        edge_type,
        src: end(src),
        dst: end(dst),
        weight: 0.5,
        confidence: 0.5,
        decay_rate: 0.01,
    }
}

/// Node id of every turn.
pub(super) fn turn_ids(conversation: &Conversation, scope: &ScopeKey) -> HashMap<NodeId, String> {
    let key = derive_id::reference_scope_key(scope.tenant(), scope.scope(), "default");
    let turns = conversation.sessions.iter().flat_map(|session| &session.turns);
    turns.map(|turn| (NodeId(derive_id::node_id_by_client_id(&key, &turn.dia_id)), turn.dia_id.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"[{"sample_id":"c1","conversation":{"speaker_a":"Ann","session_2":[
        {"speaker":"Ann","dia_id":"D2:1","text":"hi"}],"session_2_date_time":"2 May","session_1":[
        {"speaker":"Bo","dia_id":"D1:1","text":"one","blip_caption":"a cat"},{"speaker":"Ann","dia_id":"D1:2","text":"two"}]},
        "qa":[{"question":"who?","category":4,"evidence":["D1:1; D2:1"]},{"question":"none","category":5,"evidence":["D9:9"]}]}]"#;

    #[test]
    fn a_file_is_read_into_sessions_and_questions() {
        let (conversations, skipped) = parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!((conversations.len(), skipped), (1, 1));
        assert_eq!(conversations[0].questions[0].evidence, ["D1:1", "D2:1"]);
        let scope = ScopeKey::from_stored("eval/c1").unwrap();
        let writes = writes(&conversations[0], &scope, Timestamp(0));
        assert_eq!(writes.iter().map(|w| (w.nodes.len(), w.edges.len())).collect::<Vec<_>>(), [(3, 3), (2, 1)]);
        assert_eq!(writes[0].nodes[1].text_summary.as_deref(), Some("[] Bo: one [shares photo: a cat]"));
        assert_eq!(turn_ids(&conversations[0], &scope).len(), 3);
        assert!(parse(b"{}").is_err());
    }
}
