//! What an error message may show of a provider's answer: short, on one line, without credentials and input texts.

use std::collections::HashSet;

use serde_json::Value;

use crate::settings::Secret;

/// Longest message of an error, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 512;
/// Runs of this many bytes that also occur in an input text are hidden; shorter runs are common words.
const INPUT_RUN: usize = 8;
/// Runs of this many bytes of a credential are hidden.
const SECRET_RUN: usize = 6;
/// Input texts below this length cannot be told from common words.
const MIN_INPUT: usize = 4;

/// What must not appear in messages.
#[derive(Clone, Copy)]
pub(crate) struct Confidential<'a> {
    /// The credential of the provider.
    pub(crate) secret: &'a Secret,
    /// The texts sent.
    pub(crate) inputs: &'a [String],
}

/// `text` cut to [`MAX_MESSAGE_BYTES`].
pub(crate) fn capped(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
    text
}

/// At most `room` bytes of the provider's message in `body` (or of the body itself), with `…` for hidden parts.
pub(crate) fn preview(body: &[u8], confidential: &Confidential<'_>, room: usize) -> String {
    let mut text = message_in(body);
    text.truncate(text.floor_char_boundary(room));
    let hidden = hidden_bytes(text.as_bytes(), confidential);
    let mut shown = String::with_capacity(text.len());
    let mut hiding = false;
    for (at, character) in text.char_indices() {
        let hide = hidden[at];
        if hide && !hiding {
            shown.push('…');
        } else if !hide {
            shown.push(if character.is_control() { ' ' } else { character });
        }
        hiding = hide;
    }
    shown.truncate(shown.floor_char_boundary(room));
    shown
}

/// The message inside an error answer of a known form, else the whole answer, compact or without backslashes.
fn message_in(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        // JSON that was cut off: without the backslashes, quoted texts are recognised again.
        return String::from_utf8_lossy(body).trim().replace('\\', "");
    };
    ["/error/message", "/base_resp/status_msg", "/error", "/message", "/detail"]
        .iter()
        .find_map(|at| value.pointer(at).and_then(Value::as_str))
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Marks the bytes of `text` that belong to a run shared with the credential or with an input.
fn hidden_bytes(text: &[u8], confidential: &Confidential<'_>) -> Vec<bool> {
    let mut hidden = vec![false; text.len()];
    let secret = confidential.secret.expose().trim().as_bytes();
    hide_runs(text, SECRET_RUN.min(secret.len()), std::iter::once(secret), &mut hidden);
    let inputs = || confidential.inputs.iter().map(|input| input.trim().as_bytes());
    hide_runs(text, INPUT_RUN, inputs().filter(|input| input.len() >= INPUT_RUN), &mut hidden);
    for input in inputs().filter(|input| (MIN_INPUT..INPUT_RUN).contains(&input.len())) {
        hide_runs(text, input.len(), std::iter::once(input), &mut hidden);
    }
    hidden
}

/// Marks every run of `length` bytes of `text` that occurs in one of `sources`.
fn hide_runs<'a>(text: &[u8], length: usize, sources: impl Iterator<Item = &'a [u8]>, hidden: &mut [bool]) {
    if length == 0 || text.len() < length {
        return;
    }
    let runs: HashSet<&[u8]> = text.windows(length).collect();
    let shared: HashSet<&[u8]> =
        sources.flat_map(|source| source.windows(length)).filter(|run| runs.contains(run)).collect();
    for (at, run) in text.windows(length).enumerate() {
        if shared.contains(run) {
            hidden[at..at + length].fill(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(body: &str, inputs: &[&str], room: usize) -> String {
        let inputs: Vec<String> = inputs.iter().map(|input| (*input).to_owned()).collect();
        let secret = Secret::new("sk-abcdef123456");
        preview(body.as_bytes(), &Confidential { secret: &secret, inputs: &inputs }, room)
    }

    #[test]
    fn message_of_known_answers_is_shown_alone() {
        assert_eq!(show(r#"{"error":{"message":"no such model","code":"x"}}"#, &[], 99), "no such model");
        assert_eq!(show(r#"{"error":"model not loaded"}"#, &[], 99), "model not loaded");
        assert_eq!(show(r#"{"base_resp":{"status_code":1,"status_msg":"bad"}}"#, &[], 99), "bad");
        assert_eq!(show(r#"{"code": 7}"#, &[], 99), r#"{"code":7}"#);
        assert_eq!(show("<html>\nBad\tGateway\n", &[], 99), "<html> Bad Gateway");
        assert_eq!(show("", &[], 99), "");
    }

    #[test]
    fn inputs_are_hidden_whole_or_in_part() {
        let input = "Mail from Zoë about the \"merger\" in June";
        let body = r#"{"error":{"message":"cannot embed 'Mail from Zo\u00eb about the \"merger\" in J' (input 3)"}}"#;
        assert_eq!(show(body, &["other", input], 200), "cannot embed '…' (input 3)");
        assert_eq!(show("cannot embed 'hello'", &["hello"], 99), "cannot embed '…'");
        assert_eq!(show("plain: about the \\\"merger\\\" in June", &[input], 99), "plain:…");
    }

    #[test]
    fn credential_is_hidden_even_in_part() {
        assert_eq!(show("key sk-abcdef123456 or sk-abcdef*** is wrong", &[], 99), "key … or …*** is wrong");
    }

    #[test]
    fn length_is_limited_at_a_character() {
        assert_eq!(show("äöü äöü", &[], 5), "äö");
        assert_eq!(capped("ä".repeat(400)).len(), MAX_MESSAGE_BYTES);
    }
}
