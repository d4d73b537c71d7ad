//! Text: normalisation of free text (specification 3.3) and the lexical analyzer behind keyword search.

use std::collections::HashSet;
use std::sync::LazyLock;

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Tokens longer than this many characters are cut.
const MAX_TOKEN_CHARS: usize = 64;

/// Words without meaning of their own in a query, as they look after folding (apostrophes gone) and before stemming.
/// Sorted, for binary search.
const STOP_WORDS: &[&str] = &[
    "a", "about", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do",
    "does", "for", "from", "had", "has", "have", "he", "her", "his", "how", "i", "if", "in", "into", "is", "it", "its",
    "me", "my", "no", "not", "of", "on", "or", "our", "she", "should", "so", "such", "than", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "those", "to", "was", "we", "were", "what", "when", "where",
    "which", "who", "why", "will", "with", "would", "you", "your",
];

static STEMMER: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::English));

/// Whether ECMAScript's `\s` matches `c`: white space and line terminators. U+FEFF is, U+200B and U+0085 are not.
pub fn is_ecmascript_whitespace(c: char) -> bool {
    matches!(
        c,
        '\t'..='\r'
            | ' '
            | '\u{A0}'
            | '\u{1680}'
            | '\u{2000}'..='\u{200A}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{202F}'
            | '\u{205F}'
            | '\u{3000}'
            | '\u{FEFF}'
    )
}

/// Normalises free text (`norm` of specification 3.3): every run of ECMAScript whitespace becomes one space, the ends
/// are trimmed, and a text longer than `max_len_utf16` UTF-16 units is cut to `max_len_utf16 - 1` units and `…`.
///
/// Unlike the reference (W-35) the cut never leaves half a character behind: where it would fall between the
/// surrogates of one, that character goes too. With a limit of 0 the result is empty.
pub fn normalize(s: &str, max_len_utf16: usize) -> String {
    let mut text = String::with_capacity(s.len());
    for word in s.split(is_ecmascript_whitespace).filter(|word| !word.is_empty()) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    // A text has at most as many UTF-16 units as bytes.
    if text.len() <= max_len_utf16 {
        return text;
    }
    let Some(keep) = max_len_utf16.checked_sub(1) else {
        return String::new();
    };
    let mut units = 0;
    let mut cut = 0;
    for (at, c) in text.char_indices() {
        units += c.len_utf16();
        if units <= keep {
            cut = at + c.len_utf8();
        }
        if units > max_len_utf16 {
            text.truncate(cut);
            text.push('…');
            break;
        }
    }
    text
}

/// Whether the text contains U+0000, which stores and C APIs commonly refuse (W-35).
pub fn contains_nul(s: &str) -> bool {
    s.as_bytes().contains(&0)
}

/// Appends the index terms of `text` to `out`, in order, repetitions included.
///
/// - Folding: compatibility decomposition (NFKD), accents dropped, full lowercase, a few letters that do not decompose
///   spelled out (`ß` is `ss`, `ø` is `o`). Korean syllables, voiced kana and the vowel signs of Indic and Southeast
///   Asian scripts are letters, not accents, and survive.
/// - A term is a run of alphanumerics; everything else separates. Apostrophes inside a word vanish (`don't` is
///   `dont`) and a trailing `'s` is dropped.
/// - Words of ASCII letters only are stemmed (Snowball English); numbers and mixed words stay.
/// - Runs of scripts written without spaces (Han, kana, Hangul, Thai, Lao, Burmese, Khmer) become overlapping pairs of
///   characters; a run of one character is a term itself.
/// - A term longer than 64 characters is cut before stemming.
///
/// Terms are never empty and hold nothing but alphanumerics.
pub fn analyze(text: &str, out: &mut Vec<String>) {
    each_token(text, &mut |token| out.push(stem(token)));
}

/// The terms of one or more texts with their frequencies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermCounts {
    /// Distinct terms and how often each occurs, sorted by term.
    pub terms: Vec<(String, u32)>,
    /// How many terms there are in all, repetitions included (the document length of BM25).
    pub len: u32,
}

/// Counts the terms ([`analyze`]) of all `texts` together. No term spans two texts.
pub fn term_counts(texts: &[&str]) -> TermCounts {
    let mut all = Vec::new();
    for text in texts {
        analyze(text, &mut all);
    }
    let len = u32::try_from(all.len()).unwrap_or(u32::MAX);
    all.sort_unstable();
    let mut terms: Vec<(String, u32)> = Vec::new();
    for term in all {
        match terms.last_mut() {
            Some((last, count)) if *last == term => *count = count.saturating_add(1),
            _ => terms.push((term, 1)),
        }
    }
    TermCounts { terms, len }
}

/// The distinct terms ([`analyze`]) of a query in order of first appearance, without English stop words; a query of
/// nothing but stop words keeps them.
pub fn query_terms(text: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut stopped = Vec::new();
    let mut seen = HashSet::new();
    each_token(text, &mut |token| {
        let term = stem(token);
        if seen.insert(term.clone()) {
            let stop = STOP_WORDS.binary_search(&token).is_ok();
            if stop { &mut stopped } else { &mut kept }.push(term);
        }
    });
    if kept.is_empty() { stopped } else { kept }
}

fn stem(token: &str) -> String {
    // Snowball leaves words of up to two letters alone.
    if token.len() > 2 && token.bytes().all(|byte| byte.is_ascii_lowercase()) {
        STEMMER.stem(token).into_owned()
    } else {
        token.to_owned()
    }
}

/// Calls `emit` with every folded, unstemmed token of `text`.
fn each_token(text: &str, emit: &mut impl FnMut(&str)) {
    let mut words = WordBuffer::default();
    let mut folded = String::new();
    // ASCII separators divide the text into chunks that fold independently, so one accent or curly quote does not
    // take the rest of the text off the ASCII path.
    for chunk in text.split(|c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '\'') {
        if chunk.is_ascii() {
            for byte in chunk.bytes() {
                words.push(char::from(byte.to_ascii_lowercase()), emit);
            }
        } else {
            folded.clear();
            fold_into(chunk, &mut folded);
            for c in folded.chars() {
                words.push(c, emit);
            }
        }
        words.end(emit);
    }
}

/// Folds `chunk`: decomposed, without accents, lowercase, recomposed where that makes letters (Hangul, kana).
fn fold_into(chunk: &str, folded: &mut String) {
    let letters = chunk.nfkd().filter(|c| !is_accent(*c)).flat_map(char::to_lowercase);
    for c in letters.nfc() {
        match c {
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'ø' => folded.push('o'),
            'ł' => folded.push('l'),
            'đ' => folded.push('d'),
            'ı' => folded.push('i'),
            'ς' => folded.push('σ'),
            '’' | 'ʼ' => folded.push('\''),
            // Marks that are no letters (viramas, tone marks) must not divide a word.
            c if c.is_alphanumeric() || !is_combining_mark(c) => folded.push(c),
            _ => {}
        }
    }
}

/// Marks that vary a letter of an alphabet (Latin, Greek, Cyrillic, Hebrew, Arabic, ...) without being letters.
fn is_accent(c: char) -> bool {
    // The scripts from U+0900 on have vowel signs among their marks; the two after it are marks for Latin and symbols.
    matches!(c, '\u{300}'..='\u{8FF}' | '\u{1AB0}'..='\u{1AFF}' | '\u{1DC0}'..='\u{1DFF}' | '\u{20D0}'..='\u{20FF}')
        && is_combining_mark(c)
}

/// Letters of scripts that put no spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(
        c,
        '\u{E00}'..='\u{EFF}'
            | '\u{1000}'..='\u{109F}'
            | '\u{1100}'..='\u{11FF}'
            | '\u{1780}'..='\u{17FF}'
            | '\u{2E80}'..='\u{2FDF}'
            | '\u{3005}'..='\u{3007}'
            | '\u{3021}'..='\u{3029}'
            | '\u{3031}'..='\u{3035}'
            | '\u{3041}'..='\u{318F}'
            | '\u{31A0}'..='\u{31BF}'
            | '\u{31F0}'..='\u{31FF}'
            | '\u{3400}'..='\u{4DBF}'
            | '\u{4E00}'..='\u{9FFF}'
            | '\u{A960}'..='\u{A97F}'
            | '\u{AC00}'..='\u{D7FF}'
            | '\u{F900}'..='\u{FAFF}'
            | '\u{1AFF0}'..='\u{1B16F}'
            | '\u{20000}'..='\u{3FFFF}'
    )
}

/// Assembles folded characters into tokens.
#[derive(Default)]
struct WordBuffer {
    /// The current word, inner apostrophes included, or the last character of an unspaced run.
    word: String,
    /// Characters of the word but for apostrophes, those beyond the cut counted.
    chars: usize,
    /// Whether `word` belongs to an unspaced run, and if so whether a pair of that run was emitted.
    run: Option<bool>,
}

impl WordBuffer {
    fn push(&mut self, c: char, emit: &mut impl FnMut(&str)) {
        if c == '\'' && self.run.is_none() {
            if !self.word.is_empty() && !self.word.ends_with('\'') {
                self.word.push(c);
            }
        } else if !c.is_alphanumeric() {
            self.end(emit);
        } else if is_unspaced(c) {
            if self.run.is_none() {
                self.end(emit);
                self.run = Some(false);
            }
            self.word.push(c);
            if self.chars == 0 {
                self.chars = 1;
            } else {
                emit(&self.word);
                let first = self.word.chars().next().map_or(0, char::len_utf8);
                self.word.drain(..first);
                self.run = Some(true);
            }
        } else {
            if self.run.is_some() {
                self.end(emit);
            }
            if self.chars < MAX_TOKEN_CHARS {
                self.word.push(c);
            }
            self.chars += 1;
        }
    }

    fn end(&mut self, emit: &mut impl FnMut(&str)) {
        match self.run.take() {
            Some(paired) => {
                if !paired {
                    emit(&self.word);
                }
            }
            None => {
                let mut word = self.word.trim_end_matches('\'');
                // The `'s` at the end of a cut word is not the word's own end.
                if self.chars <= MAX_TOKEN_CHARS {
                    word = word.strip_suffix("'s").unwrap_or(word);
                }
                if word.contains('\'') {
                    emit(&word.replace('\'', ""));
                } else if !word.is_empty() {
                    emit(word);
                }
            }
        }
        self.word.clear();
        self.chars = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        analyze(text, &mut out);
        out
    }

    #[test]
    fn golden_normalize() {
        assert_eq!(normalize("abcdefghij", 5), "abcd…");
        assert_eq!(normalize("hello  world", 100), "hello world");
    }

    #[test]
    fn normalize_collapses_ecmascript_whitespace_only() {
        assert_eq!(normalize("\u{FEFF} a\u{A0}\u{2028}\n\tb\u{3000}", 10), "a b");
        assert_eq!(normalize("a\u{200B}b\u{85}c", 10), "a\u{200B}b\u{85}c");
        assert_eq!(normalize(" \t ", 10), "");
    }

    #[test]
    fn normalize_counts_utf16_units_and_keeps_characters_whole() {
        assert_eq!(normalize("ééééé", 5), "ééééé");
        assert_eq!(normalize("😀😀", 4), "😀😀");
        assert_eq!(normalize("😀😀", 3), "😀…");
        assert_eq!(normalize("😀😀", 2), "…");
        assert_eq!(normalize("a😀😀", 3), "a…");
        assert_eq!(normalize("abc", 1), "…");
        assert_eq!(normalize("abc", 0), "");
        assert_eq!(normalize("", 0), "");
    }

    #[test]
    fn nul_is_found() {
        assert!(contains_nul("a\0b"));
        assert!(!contains_nul("a b"));
    }

    #[test]
    fn words_are_folded_and_stemmed() {
        assert_eq!(terms("Running RUNS easily"), ["run", "run", "easili"]);
        assert_eq!(terms("Crème BRÛLÉE, Straße İstanbul ŁÓDŹ"), ["creme", "brule", "strass", "istanbul", "lodz"]);
        assert_eq!(terms("ﬁle ① ½ Ⅷ ﾃｽﾄ"), ["file", "1", "1", "2", "viii", "テス", "スト"]);
        assert_eq!(terms("ΣΊΣΥΦΟΣ σίσυφος"), ["σισυφοσ", "σισυφοσ"]);
        assert_eq!(terms("e\u{301}te\u{301} Ёлка"), ["ete", "елка"]);
    }

    #[test]
    fn apostrophes_do_not_split_words() {
        assert_eq!(terms("don't don’t DONʼT"), ["dont", "dont", "dont"]);
        assert_eq!(terms("the dog's bone, dogs' bones, James’s"), ["the", "dog", "bone", "dog", "bone", "jame"]);
        assert_eq!(terms("'quoted' 's ''' rock'n'roll"), ["quot", "s", "rocknrol"]);
        assert_eq!(terms("'it's'"), ["it"]);
    }

    #[test]
    fn numbers_and_identifiers_survive() {
        assert_eq!(terms("v1.25 foo_bar42 caches2 192"), ["v1", "25", "foo", "bar42", "caches2", "192"]);
    }

    #[test]
    fn unspaced_scripts_become_bigrams() {
        assert_eq!(terms("数据库"), ["数据", "据库"]);
        assert_eq!(terms("数"), ["数"]);
        assert_eq!(terms("iPhone手机abc"), ["iphon", "手机", "abc"]);
        assert_eq!(terms("한국어 말"), ["한국", "국어", "말"]);
        assert_eq!(terms("ガラス ｶﾞﾗｽ"), ["ガラ", "ラス", "ガラ", "ラス"]);
        assert_eq!(terms("「東京」、大阪"), ["東京", "大阪"]);
        assert_eq!(terms("กาแฟ"), ["กา", "าแ", "แฟ"]);
        assert_eq!(terms("東'京"), ["東", "京"]);
    }

    #[test]
    fn indic_words_stay_whole() {
        assert_eq!(terms("हिन्दी भाषा"), ["हिनदी", "भाषा"]);
    }

    #[test]
    fn long_tokens_are_cut() {
        assert_eq!(terms(&"1".repeat(500)), ["1".repeat(64)]);
        assert_eq!(terms(&format!("{}'s x", "7".repeat(64))), ["7".repeat(64), "x".to_owned()]);
        assert_eq!(terms(&"é1".repeat(100))[0].chars().count(), 64);
        assert_eq!(terms(&format!("a{}", "'".repeat(1000))), ["a"]);
    }

    #[test]
    fn counts_are_sorted_and_total() {
        let counts = term_counts(&["b a b", "A cats"]);
        assert_eq!(counts.terms, [("a".to_owned(), 2), ("b".to_owned(), 2), ("cat".to_owned(), 1)]);
        assert_eq!(counts.len, 5);
        assert_eq!(term_counts(&[]), TermCounts::default());
        assert_eq!(term_counts(&["数", "据"]).terms.len(), 2);
    }

    #[test]
    fn query_terms_are_distinct_and_without_stop_words() {
        assert_eq!(query_terms("How do I restart the database and databases?"), ["restart", "databas"]);
        assert_eq!(query_terms("who are the who"), ["who", "are", "the"]);
        assert_eq!(query_terms("zebra apple zebra"), ["zebra", "appl"]);
        assert!(query_terms(" ,.! ").is_empty());
    }

    #[test]
    fn stop_words_are_sorted() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn large_inputs_are_linear() {
        for unit in ["a'", "'", "é", "数", "a ", "\u{301}", "🙂"] {
            let text = unit.repeat(2_000_000 / unit.len());
            let start = std::time::Instant::now();
            let _ = term_counts(&[&text]);
            let _ = normalize(&text, 1000);
            let _ = normalize(&text, 1_999_999);
            // Quadratic work would take hours.
            assert!(start.elapsed().as_secs() < 60, "{unit:?} took {:?}", start.elapsed());
        }
    }

    fn wild_text() -> impl Strategy<Value = String> {
        let c = prop_oneof![
            3 => any::<char>(),
            3 => proptest::char::range(' ', '~'),
            2 => prop::sample::select("\'’s \u{301}\u{3099}かß한ก\u{94D}\u{A0}".chars().collect::<Vec<_>>()),
            1 => proptest::char::range('\u{80}', '\u{17FF}'),
        ];
        prop::collection::vec(c, 0..80).prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn normalize_is_idempotent_and_bounded(text in wild_text(), max in 0usize..60) {
            let once = normalize(&text, max);
            prop_assert!(once.encode_utf16().count() <= max);
            prop_assert_eq!(normalize(&once, max), once);
        }

        #[test]
        fn terms_are_short_alphanumeric_words(text in wild_text()) {
            for term in terms(&text) {
                prop_assert!(!term.is_empty());
                prop_assert!(term.chars().all(char::is_alphanumeric), "{:?}", term);
                prop_assert!(term.chars().count() <= MAX_TOKEN_CHARS, "{:?}", term);
            }
        }

        #[test]
        fn counts_and_queries_agree_with_the_analyzer(text in wild_text()) {
            let all = terms(&text);
            let counts = term_counts(&[&text]);
            prop_assert_eq!(counts.len as usize, all.len());
            prop_assert!(counts.terms.is_sorted());
            let query = query_terms(&text);
            prop_assert_eq!(query.is_empty(), all.is_empty());
            prop_assert!(query.iter().all(|term| all.contains(term)));
        }

        #[test]
        fn stemming_never_panics(word in "[a-z]{0,70}") {
            prop_assert!(terms(&word).iter().all(|term| !term.is_empty()));
        }
    }
}
