//! Redaction of personal data in free text (specification 3.3, with W-34 fixed).
//!
//! Four kinds, replaced one after another by `[KIND#8 hex digits]`:
//!
//! 1. `EMAIL`: local part of `[A-Z0-9._%+-]+`, `@`, domain of `[A-Z0-9.-]+`, dot, two or more letters.
//! 2. `SSN`: `ddd-dd-dddd`.
//! 3. `IP`: four groups of one to three digits joined by dots. Groups are not range checked, so a four-part version
//!    number such as `1.2.3.4` is taken for an address too.
//! 4. `PHONE`: optional `+1` or `1` and separator, area code as `ddd` or `(ddd)`, `ddd`, `dddd`, with an optional
//!    separator (a hyphen or one whitespace character) between the groups.
//!
//! Differences from the reference (W-34): the digits of SSN, IP and PHONE are anchored on both sides. A number that is
//! part of a longer digit run (`1771234567890`), touches an ASCII letter, digit or underscore, or (IP, PHONE) is part
//! of a longer dotted number (`1.2.3.4.5`, `0.4155551234`) stays, and so does everything that overlaps a UUID.
//! Anchors look at ASCII only: in scripts without spaces a number directly after a letter is still found.
//!
//! Every scanner is hand-written and linear in the length of the text. Redacting twice changes nothing: tokens contain
//! nothing that matches, and no token's presence turns a neighbour that stayed into a match.

use std::borrow::Cow;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::canon::hex;
use crate::text::is_ecmascript_whitespace;

/// Bytes of a digest shown in a token.
const TOKEN_BYTES: usize = 4;
/// Bytes of a hyphenated UUID.
const UUID_LEN: usize = 36;

/// How many matches of each kind were replaced. Serialises without the kinds that have none, as the `redaction` member
/// of a write commit's diff wants it (specification 3.6 step 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedactionCounts {
    /// Email addresses.
    #[serde(skip_serializing_if = "is_zero")]
    pub email: u32,
    /// US social security numbers.
    #[serde(skip_serializing_if = "is_zero")]
    pub ssn: u32,
    /// IPv4 addresses.
    #[serde(skip_serializing_if = "is_zero")]
    pub ip: u32,
    /// North American telephone numbers.
    #[serde(skip_serializing_if = "is_zero")]
    pub phone: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde calls
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl RedactionCounts {
    /// Whether nothing was replaced.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.email = self.email.saturating_add(other.email);
        self.ssn = self.ssn.saturating_add(other.ssn);
        self.ip = self.ip.saturating_add(other.ip);
        self.phone = self.phone.saturating_add(other.phone);
    }
}

/// Replaces personal data by tokens. The same match always gets the same token, so redacted texts stay comparable.
#[derive(Clone)]
pub struct Redactor {
    /// HMAC-SHA256 already keyed; `None` computes a plain SHA-256.
    mac: Option<Hmac<Sha256>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("keyed", &self.mac.is_some()).finish()
    }
}

impl Redactor {
    /// The reference's tokens: the first 8 hex digits of SHA-256(match). Anyone can recover a telephone or social
    /// security number from such a token by trying them all (W-34); prefer [`keyed`](Self::keyed).
    pub fn unkeyed() -> Self {
        Self { mac: None }
    }

    /// Tokens of the same shape from HMAC-SHA256(`key`, match), which only the holder of the key can test guesses
    /// against. Any key length works; use at least 16 random bytes.
    pub fn keyed(key: &[u8]) -> Self {
        // RFC 2104: the key fills one 64 byte block with zeros, hashed first if it is longer. Doing that here, rather
        // than in `new_from_slice`, makes construction infallible.
        let mut block = [0; 64];
        if key.len() > block.len() {
            block[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        Self { mac: Some(Hmac::new(&block.into())) }
    }

    /// Redacts one text and adds to `counts`. Borrows when there is nothing to redact.
    pub fn redact<'a>(&self, s: &'a str, counts: &mut RedactionCounts) -> Cow<'a, str> {
        let found = Ingredients::of(s);
        let mut text = Cow::Borrowed(s);
        if found.at {
            self.replace(&mut text, "EMAIL", &mut counts.email, next_email);
        }
        if found.digit {
            if found.hyphen {
                self.replace(&mut text, "SSN", &mut counts.ssn, next_ssn);
            }
            if found.dot {
                self.replace(&mut text, "IP", &mut counts.ip, next_ip);
            }
            self.replace(&mut text, "PHONE", &mut counts.phone, next_phone);
        }
        text
    }

    /// Redacts every string value inside `value` (not the keys) and adds to `counts`. Does not recurse, so nesting
    /// depth does not matter.
    pub fn redact_value(&self, value: &mut Value, counts: &mut RedactionCounts) {
        let mut pending = vec![value];
        while let Some(value) = pending.pop() {
            match value {
                Value::String(string) => {
                    if let Cow::Owned(redacted) = self.redact(string, counts) {
                        *string = redacted;
                    }
                }
                Value::Array(items) => pending.extend(items.iter_mut()),
                Value::Object(members) => pending.extend(members.values_mut()),
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
    }

    /// Replaces all that `next` finds. `next(text, from)` is the first match at or after `from`; it may look at bytes
    /// before `from` only for anchoring.
    fn replace(
        &self,
        text: &mut Cow<'_, str>,
        kind: &str,
        count: &mut u32,
        next: fn(&str, usize) -> Option<(usize, usize)>,
    ) {
        let mut redacted = String::new();
        let mut from = 0;
        while let Some((start, end)) = next(text, from) {
            redacted.push_str(&text[from..start]);
            redacted.push('[');
            redacted.push_str(kind);
            redacted.push('#');
            redacted.push_str(&self.token(&text[start..end]));
            redacted.push(']');
            *count = count.saturating_add(1);
            from = end;
        }
        if from > 0 {
            redacted.push_str(&text[from..]);
            *text = Cow::Owned(redacted);
        }
    }

    fn token(&self, matched: &str) -> String {
        match &self.mac {
            None => hex(&Sha256::digest(matched)[..TOKEN_BYTES]),
            Some(mac) => hex(&mac.clone().chain_update(matched).finalize().into_bytes()[..TOKEN_BYTES]),
        }
    }
}

/// The characters without which a kind cannot occur; most texts lack them.
struct Ingredients {
    at: bool,
    digit: bool,
    hyphen: bool,
    dot: bool,
}

impl Ingredients {
    fn of(s: &str) -> Self {
        let mut found = Self { at: false, digit: false, hyphen: false, dot: false };
        for byte in s.bytes() {
            found.at |= byte == b'@';
            found.digit |= byte.is_ascii_digit();
            found.hyphen |= byte == b'-';
            found.dot |= byte == b'.';
        }
        found
    }
}

/// Linear because each `@` looks at its own domain run only, and a byte belongs to the domain of one `@` at most.
fn next_email(text: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    // Start of the run of local part characters that ends before `at`.
    let mut local = from;
    for at in from..bytes.len() {
        match bytes[at] {
            b'@' => {
                if let Some(end) = (local < at).then(|| email_domain_end(bytes, at + 1)).flatten() {
                    return Some((local, end));
                }
                local = at + 1;
            }
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-') => {}
            _ => local = at + 1,
        }
    }
    None
}

/// The end of the longest domain at `start`: up to and including the letters after the last dot that is followed by
/// two and preceded by anything.
fn email_domain_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut end = None;
    let mut at = start;
    while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || matches!(bytes[at], b'.' | b'-')) {
        let dot = bytes[at] == b'.' && at > start;
        at += 1;
        if dot {
            let letters = bytes[at..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            at += letters;
            if letters >= 2 {
                end = Some(at);
            }
        }
    }
    end
}

fn next_ssn(text: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        at = digits_end(bytes, start);
        let end = start + 11;
        if at == start + 3
            && !word_before(bytes, start)
            && byte_at(bytes, at) == Some(b'-')
            && digits_end(bytes, at + 1) == at + 3
            && byte_at(bytes, at + 3) == Some(b'-')
            && digits_end_within(bytes, at + 4, 5) == end
            && !word_at(bytes, end)
            && !overlaps_uuid(bytes, start, end)
        {
            return Some((start, end));
        }
    }
    None
}

fn next_ip(text: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        // A maximal run of digit groups joined by single dots: an address is all of it or nothing.
        let start = at;
        let mut groups = 0;
        let mut fits = true;
        loop {
            let end = digits_end(bytes, at);
            groups += 1;
            fits &= end - at <= 3;
            at = end;
            if !dot_digit_at(bytes, at) {
                break;
            }
            at += 1;
        }
        if groups == 4
            && fits
            && !word_before(bytes, start)
            && !digit_dot_before(bytes, start)
            && !word_at(bytes, at)
            && !overlaps_uuid(bytes, start, at)
        {
            return Some((start, at));
        }
    }
    None
}

fn next_phone(text: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        let start = at;
        let end = match bytes[at] {
            b'+' => {
                at += 1;
                // The country code; without it the number may still begin after the plus.
                if byte_at(bytes, at) == Some(b'1') { phone_after_country_code(text, at + 1) } else { None }
            }
            b'(' => {
                at += 1;
                phone_from_area_code(text, start)
            }
            b'0'..=b'9' => {
                at = digits_end(bytes, at);
                if word_before(bytes, start) || digit_dot_before(bytes, start) {
                    None
                } else {
                    let prefixed = if bytes[start] == b'1' { phone_after_country_code(text, start + 1) } else { None };
                    prefixed.or_else(|| phone_from_area_code(text, start))
                }
            }
            _ => {
                at += 1;
                None
            }
        };
        if let Some(end) = end
            && !overlaps_uuid(bytes, start, end)
        {
            return Some((start, end));
        }
    }
    None
}

/// The end of a number whose country code ends at `at`.
fn phone_after_country_code(text: &str, at: usize) -> Option<usize> {
    phone_from_area_code(text, skip_separator(text, at)).or_else(|| phone_from_area_code(text, at))
}

/// The end of a number whose area code starts at `at`, anchored on the right.
fn phone_from_area_code(text: &str, mut at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    if byte_at(bytes, at) == Some(b'(') {
        at = three_digits(bytes, skip_whitespace(text, at + 1))?;
        at = skip_whitespace(text, at);
        if byte_at(bytes, at) != Some(b')') {
            return None;
        }
        at += 1;
    } else {
        at = three_digits(bytes, at)?;
    }
    at = three_digits(bytes, skip_separator(text, at))?;
    at = skip_separator(text, at);
    let end = three_digits(bytes, at)? + 1;
    (bytes.get(end - 1).is_some_and(u8::is_ascii_digit) && !word_at(bytes, end) && !dot_digit_at(bytes, end))
        .then_some(end)
}

fn three_digits(bytes: &[u8], at: usize) -> Option<usize> {
    (digits_end_within(bytes, at, 3) == at + 3).then_some(at + 3)
}

fn byte_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The end of the digit run at `at`.
fn digits_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The end of the digit run at `at`, looking at `max` digits at most.
fn digits_end_within(bytes: &[u8], at: usize, max: usize) -> usize {
    at + bytes[at.min(bytes.len())..].iter().take(max).take_while(|byte| byte.is_ascii_digit()).count()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn word_at(bytes: &[u8], at: usize) -> bool {
    byte_at(bytes, at).is_some_and(is_word)
}

fn word_before(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_word(bytes[at - 1])
}

/// Whether the number continues at `at` with a dot and a digit.
fn dot_digit_at(bytes: &[u8], at: usize) -> bool {
    byte_at(bytes, at) == Some(b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
}

/// Whether a digit and a dot precede `at`.
fn digit_dot_before(bytes: &[u8], at: usize) -> bool {
    at > 1 && bytes[at - 1] == b'.' && bytes[at - 2].is_ascii_digit()
}

/// After one optional hyphen or whitespace character.
fn skip_separator(text: &str, at: usize) -> usize {
    match text[at..].chars().next() {
        Some(c) if c == '-' || is_ecmascript_whitespace(c) => at + c.len_utf8(),
        _ => at,
    }
}

/// After any whitespace.
fn skip_whitespace(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start_matches(is_ecmascript_whitespace).len()
}

/// Whether anything of the shape of a UUID (8-4-4-4-12 hex digits, whatever surrounds them) shares a byte with
/// `start..end`.
fn overlaps_uuid(bytes: &[u8], start: usize, end: usize) -> bool {
    (start.saturating_sub(UUID_LEN - 1)..end).any(|at| {
        bytes.get(at..at + UUID_LEN).is_some_and(|window| {
            [8, 13, 18, 23].iter().all(|hyphen| window[*hyphen] == b'-')
                && window
                    .iter()
                    .enumerate()
                    .all(|(index, byte)| matches!(index, 8 | 13 | 18 | 23) || byte.is_ascii_hexdigit())
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn redact(text: &str) -> String {
        Redactor::unkeyed().redact(text, &mut RedactionCounts::default()).into_owned()
    }

    /// Replaces token digests, so that tests can show only kinds.
    fn kinds(text: &str) -> String {
        let mut out = String::new();
        let redacted = redact(text);
        let mut rest = redacted.as_str();
        while let Some(hash) = rest.find('#') {
            out.push_str(&rest[..hash]);
            rest = &rest[hash + 9..];
        }
        out + rest
    }

    #[track_caller]
    fn stays(text: &str) {
        assert_eq!(redact(text), text);
    }

    #[test]
    fn golden_tokens() {
        for (text, redacted) in [
            ("bob@x.com", "[EMAIL#581d5f19]"),
            ("A.B@EXAMPLE.CO.UK.", "[EMAIL#78b0264e]."),
            ("SSN 123-45-6789", "SSN [SSN#01a54629]"),
            ("ip 10.0.0.1", "ip [IP#f5047344]"),
            ("a 999.999.999.999", "a [IP#a464c3cb]"),
            ("call +1 (415) 555-1234 now", "call [PHONE#0a411113] now"),
            ("4155551234", "[PHONE#732b2beb]"),
            ("Mail bob@x.com from 10.0.0.1", "Mail [EMAIL#581d5f19] from [IP#f5047344]"),
        ] {
            assert_eq!(redact(text), redacted);
        }
    }

    #[test]
    fn w34_long_digit_runs_and_uuids_stay() {
        stays("ts 1771234567890");
        stays("x00000000-0000-0000-0000-000000000001");
        stays("00000000-0000-0000-0000-000000000001");
        stays("id=12345678-1234-5678-1234-567812345678;");
        stays("14155551234-1234-1234-1234-123456789012");
        stays("24155551234");
        stays("order 41555512345");
    }

    #[test]
    fn numbers_next_to_word_characters_stay() {
        for text in ["a4155551234", "4155551234b", "_123-45-6789", "123-45-6789x", "v1.2.3.4", "1.2.3.4rc1"] {
            stays(text);
        }
        for text in ["1234-45-6789", "123-45-67890", "123-456-789", "1123-45-6789", "123--45-6789", "123-45-678"] {
            stays(text);
        }
    }

    #[test]
    fn dotted_numbers() {
        assert_eq!(kinds("10.0.0.1, 10.0.0.2. (10.0.0.3:80) v.1.2.3.4"), "[IP], [IP]. ([IP]:80) v.[IP]");
        for text in ["1.2.3.4.5", "0.1.2.3.4.5.6.7", "1.2.3", "1.2.3.1234", "1234.1.2.3", "1..2.3.4", "a1.2.3.4.5"] {
            stays(text);
        }
        assert_eq!(kinds("1.2.3.4..5"), "[IP]..5");
        for text in ["0.4155551234", "4155551234.5", "1.2.3.4.4155551234", "4155551234.1.2.3.4"] {
            stays(text);
        }
        assert_eq!(kinds("call 4155551234."), "call [PHONE].");
    }

    #[test]
    fn phone_shapes() {
        for text in [
            "4155551234",
            "14155551234",
            "+14155551234",
            "415-555-1234",
            "415 555 1234",
            "415555-1234",
            "415-5551234",
            "1 415 555 1234",
            "+1-415-555-1234",
            "1(415)555-1234",
            "(415) 555-1234",
            "( 415\u{A0} )\t5551234",
            "415\u{3000}555\u{3000}1234",
            "1234567890",
        ] {
            assert_eq!(kinds(text), "[PHONE]", "{text}");
        }
        assert_eq!(kinds("+24155551234 +4155551234"), "+24155551234 +[PHONE]");
        assert_eq!(kinds("tel(415) 555-1234, x+14155551234"), "tel[PHONE], x[PHONE]");
        assert_eq!(kinds("21(415)555-1234"), "21[PHONE]");
        assert_eq!(kinds("123 456 789 0123"), "123 [PHONE]");
        assert_eq!(kinds("电话4155551234。"), "电话[PHONE]。");
        for text in ["(415) 555-12345", "415  555 1234", "555-1234", "+1", "(", "1(415)", "(415)", "415-555-123"] {
            stays(text);
        }
    }

    #[test]
    fn email_shapes() {
        assert_eq!(kinds("a@a@a.com"), "a@[EMAIL]");
        assert_eq!(kinds("<x+y%z_1.-@Sub.Example.io>"), "<[EMAIL]>");
        assert_eq!(kinds("a@b.com2@c.de"), "[EMAIL][EMAIL]");
        assert_eq!(kinds("a@b.com@c.de"), "[EMAIL]@c.de");
        assert_eq!(kinds("a@b.c.de.f1"), "[EMAIL].f1");
        assert_eq!(kinds("a@..com"), "[EMAIL]");
        assert_eq!(kinds("é@b.com éx@b.com"), "é@b.com é[EMAIL]");
        assert_eq!(kinds("a@b.com4155551234"), "[EMAIL][PHONE]");
        assert_eq!(kinds("00000000-0000-0000-0000-000000000001@b.com"), "[EMAIL]");
        for text in ["@b.com", "a@", "a@b", "a@b.c", "a@.com", "a@b.c1", "a b@ c.com"] {
            stays(text);
        }
    }

    #[test]
    fn unchanged_text_is_borrowed() {
        let mut counts = RedactionCounts::default();
        let redacted = Redactor::unkeyed().redact("nothing 12 here @ all - 1.5", &mut counts);
        assert!(matches!(redacted, Cow::Borrowed(_)));
        assert!(counts.is_empty());
    }

    #[test]
    fn keyed_tokens_are_hmacs() {
        let mut counts = RedactionCounts::default();
        for key in [b"k".to_vec(), vec![7; 64], vec![7; 65], vec![]] {
            let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).unwrap().chain_update("bob@x.com");
            let expected = format!("[EMAIL#{}]", hex(&mac.finalize().into_bytes()[..4]));
            assert_eq!(Redactor::keyed(&key).redact("bob@x.com", &mut counts), expected);
            assert_ne!(expected, redact("bob@x.com"));
        }
        assert_eq!(counts.email, 4);
        assert!(!format!("{:?}", Redactor::keyed(b"secret")).contains("secret"));
    }

    #[test]
    fn values_are_redacted_but_not_keys() {
        let mut value = json!({"bob@x.com": ["bob@x.com", {"ip": "10.0.0.1 10.0.0.1"}], "n": 4155551234u64});
        let mut counts = RedactionCounts::default();
        Redactor::unkeyed().redact_value(&mut value, &mut counts);
        assert_eq!(
            value,
            json!({
                "bob@x.com": ["[EMAIL#581d5f19]", {"ip": "[IP#f5047344] [IP#f5047344]"}],
                "n": 4155551234u64,
            })
        );
        assert_eq!(counts, RedactionCounts { email: 1, ip: 2, ..Default::default() });
    }

    #[test]
    fn deep_values_do_not_recurse() {
        let mut value = json!("bob@x.com");
        for _ in 0..5_000 {
            value = Value::Array(vec![value]);
        }
        let mut counts = RedactionCounts::default();
        Redactor::unkeyed().redact_value(&mut value, &mut counts);
        assert_eq!(counts.email, 1);
    }

    #[test]
    fn counts_serialise_without_zeros_and_merge() {
        let mut counts = RedactionCounts { email: 1, ip: 1, ..Default::default() };
        assert_eq!(json!(counts), json!({"email": 1, "ip": 1}));
        assert_eq!(json!(RedactionCounts::default()), json!({}));
        assert_eq!(serde_json::from_value::<RedactionCounts>(json!({"ip": 2})).unwrap().ip, 2);
        counts.merge(&RedactionCounts { email: 2, phone: u32::MAX, ssn: 1, ip: 0 });
        counts.merge(&RedactionCounts { phone: 1, ..Default::default() });
        assert_eq!(counts, RedactionCounts { email: 3, ssn: 1, ip: 1, phone: u32::MAX });
    }

    #[test]
    fn adversarial_inputs_are_linear() {
        let units = [
            "a@",
            "a@a.",
            "@",
            ".",
            "1-",
            "(",
            "( ",
            " ",
            "1.",
            "+1",
            "1",
            "1(",
            "+1 (",
            "123-",
            "123-45-",
            "(415)",
            "415-555-",
            "1.1.1.1 ",
            "a@b.co ",
            "123-45-6789 ",
            "4155551234 ",
            "00000000-0000-0000-0000-",
            "0-0",
            "+1\u{3000}(\u{3000}",
        ];
        for unit in units {
            // The prefix makes texts without digits go through the digit scanners as well.
            let text = format!("+1 ({}", unit.repeat(2_000_000 / unit.len()));
            let start = std::time::Instant::now();
            let _ = Redactor::unkeyed().redact(&text, &mut RedactionCounts::default());
            // Quadratic work would take hours.
            assert!(start.elapsed().as_secs() < 60, "{unit:?} took {:?}", start.elapsed());
        }
    }

    const UUID: &str = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";

    /// Texts dense in almost-matches.
    fn dense_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[0-9]{1,4}",
            1 => "[0-9]{6,14}",
            6 => prop::sample::select(vec![
                ".", "-", " ", "@", "(", ")", "+", "+1", "1", "_", "a", ".com", "bob@x.co", "10.0.0.1", "123-45-6789",
                "415-555-1234", "(415)", "4155551234", "[", "]", "#", "é", "\u{A0}", "[PHONE#12345678]", "\n",
            ]).prop_map(str::to_owned),
            1 => UUID,
            1 => any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..Default::default() })]

        #[test]
        fn a_second_pass_changes_nothing(text in dense_text()) {
            let once = redact(&text);
            let mut counts = RedactionCounts::default();
            prop_assert_eq!(&*Redactor::unkeyed().redact(&once, &mut counts), &once);
            prop_assert!(counts.is_empty());
        }

        #[test]
        fn digit_uuids_survive_anywhere(
            before in "[0-9() +1.-]{0,14}",
            uuid in "[0-9]{8}(-[0-9]{4}){3}-[0-9]{12}",
            after in "[0-9() .-]{0,14}",
        ) {
            let text = format!("{before}{uuid}{after}");
            prop_assert!(redact(&text).contains(&uuid), "{} -> {}", text, redact(&text));
        }

        #[test]
        fn counts_equal_tokens(text in dense_text()) {
            let plain = text.replace('#', "");
            let mut counts = RedactionCounts::default();
            let redacted = Redactor::unkeyed().redact(&plain, &mut counts);
            let total = counts.email + counts.ssn + counts.ip + counts.phone;
            prop_assert_eq!(redacted.matches('#').count(), total as usize);
        }

        #[test]
        fn any_text_is_safe(text in any::<String>()) {
            let _ = redact(&text);
        }
    }
}
