//! Pages: where one ends and the next begins.

use uuid::Uuid;

use crate::{canon::Digest, clock::Timestamp, error::DomainError, ids::NodeId};

/// Place of a node in the order of find: newest first, ties by id downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When the node was first written.
    pub created_at: Timestamp,
    /// The node.
    pub id: NodeId,
}

/// A place in the answers to one question, as callers send it back: `<created_at in µs>.<node id>.<question>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last node shown.
    pub after: Position,
    /// First eight bytes of the digest of the question it belongs to, in hex.
    question: [u8; 8],
}

impl Cursor {
    /// A cursor into the answers to a question.
    pub fn new(after: Position, question: &Digest) -> Self {
        let mut short = [0; 8];
        short.copy_from_slice(&question.0[..8]);
        Self { after, question: short }
    }

    /// The text callers get.
    pub fn to_text(self) -> String {
        let question = u64::from_be_bytes(self.question);
        format!("{}.{}.{question:016x}", self.after.created_at.0, self.after.id)
    }

    /// Reads what a caller sends back.
    ///
    /// # Errors
    /// It is no cursor, or one of another question.
    pub fn parse(text: &str, question: &Digest) -> Result<Self, DomainError> {
        let mut parts = text.split('.');
        let read = || {
            let created_at = parts.next()?.parse().ok()?;
            let id = Uuid::parse_str(parts.next()?).ok()?;
            let of = u64::from_str_radix(parts.next()?, 16).ok()?;
            let after = Position { created_at: Timestamp(created_at), id: NodeId(id) };
            // A cursor has one spelling.
            Some(Self { after, question: of.to_be_bytes() }).filter(|cursor| cursor.to_text() == text)
        };
        let cursor =
            { read }().ok_or_else(|| DomainError::field("cursor", "must be a next_cursor of an earlier page"))?;
        if cursor.question != question.0[..8] {
            return Err(DomainError::field(
                "cursor",
                "belongs to another question: send the filters it came from, or no cursor",
            ));
        }
        Ok(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon::sha256;

    #[test]
    fn a_cursor_comes_back_for_its_own_question_only() {
        let after = Position { created_at: Timestamp(1_771_234_567_890_123), id: NodeId(Uuid::from_u128(7)) };
        let question = sha256("q");
        let text = Cursor::new(after, &question).to_text();
        assert_eq!(Cursor::parse(&text, &question).unwrap().after, after);
        assert!(Cursor::parse(&text, &sha256("other")).unwrap_err().issues[0].message.contains("another question"));
        for wrong in [
            "",
            "1",
            "1.2.3",
            &format!("{text}.1"),
            &text[1..text.len() - 3].replace('.', "x"),
            &text.to_uppercase(),
            &format!("+{text}"),
        ] {
            assert!(Cursor::parse(wrong, &question).is_err(), "{wrong}");
        }
    }
}
