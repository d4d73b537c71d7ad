//! Short, realistic, reproducible texts: Zipf-distributed words, names, dates and references.

use std::collections::HashSet;

use super::rng::Rng;
use super::words::{FAMILY_NAMES, FUNCTION_WORDS, GIVEN_NAMES, INTERROGATIVES, MONTHS, PREFIXES, STEMS, SUFFIXES};

/// The flattening of the head of the distribution (Zipf-Mandelbrot).
const RANK_OFFSET: f64 = 2.7;

/// Which family of texts is meant; families never share a random sequence.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Stream {
    /// Texts of the seeded nodes.
    Seed = 1,
    /// Texts of the measured writes.
    Write = 2,
    /// Measured questions.
    Question = 3,
    /// Query vectors.
    Query = 4,
    /// Vectors and figures of seeded nodes.
    SeedVector = 5,
    /// Vectors and figures of written nodes.
    WriteVector = 6,
}

/// Several thousand distinct words in order of frequency.
#[derive(Debug)]
struct Vocabulary {
    words: Vec<String>,
    cumulative: Vec<f64>,
}

impl Vocabulary {
    fn new() -> Self {
        let words = ranked_words();
        let mut total = 0.0;
        let cumulative = (0..words.len())
            .map(|rank| {
                total += 1.0 / (rank as f64 + RANK_OFFSET);
                total
            })
            .collect();
        Self { words, cumulative }
    }

    /// A word, drawn by frequency.
    fn draw(&self, rng: &mut Rng) -> &str {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let point = rng.unit() * total;
        let rank = self.cumulative.partition_point(|&sum| sum <= point);
        &self.words[rank.min(self.words.len() - 1)]
    }

    /// The content words: everything behind the function words.
    fn content(&self) -> &[String] {
        &self.words[FUNCTION_WORDS.len()..]
    }
}

/// All words: function words, bare stems, then inflected stems in bands of falling frequency.
fn ranked_words() -> Vec<String> {
    let mut seen = HashSet::new();
    let mut words = Vec::new();
    let mut add = |word: String| {
        if seen.insert(word.clone()) {
            words.push(word);
        }
    };
    FUNCTION_WORDS.iter().for_each(|word| add((*word).to_owned()));
    for band in 0..PREFIXES.len() + SUFFIXES.len() - 1 {
        for (p, prefix) in PREFIXES.iter().enumerate() {
            let Some(suffix) = band.checked_sub(p).and_then(|s| SUFFIXES.get(s)) else { continue };
            STEMS.iter().for_each(|stem| add(inflect(prefix, stem, suffix)));
        }
    }
    words
}

/// `prefix + stem + suffix` with the mute `e` dropped before a vowel.
fn inflect(prefix: &str, stem: &str, suffix: &str) -> String {
    let vowel = suffix.starts_with(['a', 'e', 'i']);
    let stem = if vowel { stem.strip_suffix('e').unwrap_or(stem) } else { stem };
    format!("{prefix}{stem}{suffix}")
}

/// Makes every text of a run.
#[derive(Debug)]
pub(crate) struct Texts {
    vocabulary: Vocabulary,
    seed: u64,
    nonce: u64,
    seeded: u64,
    stride: u64,
}

impl Texts {
    /// `seed` decides the seeded texts; `nonce` those of measured requests; `seeded` texts were stored before.
    pub(crate) fn new(seed: u64, nonce: u64, seeded: u64) -> Self {
        let vocabulary = Vocabulary::new();
        let stride = coprime_with(vocabulary.content().len() as u64, 7919);
        Self { vocabulary, seed, nonce, seeded, stride }
    }

    /// A generator for item `index`; measured streams depend on the nonce, seeding does not.
    pub(crate) fn rng(&self, stream: Stream, index: u64) -> Rng {
        let seed = match stream {
            Stream::Seed | Stream::SeedVector => self.seed,
            _ => self.seed ^ self.nonce,
        };
        Rng::for_item(seed, stream as u64, index)
    }

    /// One to three sentences.
    pub(crate) fn text(&self, stream: Stream, index: u64) -> String {
        let mut rng = self.rng(stream, index);
        let mut out = String::with_capacity(192);
        for sentence in 0..rng.between(1, 3) {
            if sentence > 0 {
                out.push(' ');
            }
            self.sentence(&mut rng, &mut out);
        }
        out
    }

    /// A title of two to four words.
    pub(crate) fn title(&self, stream: Stream, index: u64) -> String {
        let mut rng = self.rng(stream, index ^ (1 << 63));
        let content = self.vocabulary.content();
        let words: Vec<&str> =
            (0..rng.between(2, 4)).map(|_| content[rng.below(STEMS.len().min(content.len()))].as_str()).collect();
        words.join(" ")
    }

    /// A question of four to nine words.
    ///
    /// The last two words number the question, so none is repeated before the square of the vocabulary is used up:
    /// no cache can answer it. The others come from a stored text (or from the vocabulary), so it finds something.
    pub(crate) fn question(&self, sequence: u64) -> String {
        let mut rng = self.rng(Stream::Question, sequence);
        let total = rng.between(4, 9);
        let mut words = vec![INTERROGATIVES[rng.below(INTERROGATIVES.len())].to_owned()];
        if self.seeded == 0 {
            words.extend((3..total).map(|_| self.vocabulary.draw(&mut rng).to_owned()));
        } else {
            let text = self.text(Stream::Seed, rng.below(self.seeded as usize) as u64);
            words.extend(pick(&text, total - 3, &mut rng));
        }
        let (first, second) = self.signature(sequence);
        words.push(first.to_owned());
        words.push(second.to_owned());
        words.join(" ") + "?"
    }

    /// A pair of words that no other sequence number (modulo the number of pairs) has.
    fn signature(&self, sequence: u64) -> (&str, &str) {
        let words = self.vocabulary.content();
        let count = words.len() as u64;
        let pairs = count * count;
        let number = (sequence % pairs + self.nonce % pairs) % pairs;
        let first = number * self.stride % count;
        let second = (number / count + number * 31) % count;
        (&words[first as usize], &words[second as usize])
    }

    fn sentence(&self, rng: &mut Rng, out: &mut String) {
        let start = out.len();
        if rng.chance(0.3) {
            out.push_str(&name(rng));
            out.push(' ');
        }
        for word in 0..rng.between(6, 16) {
            if word > 0 {
                out.push(' ');
            }
            out.push_str(self.vocabulary.draw(rng));
        }
        if rng.chance(0.3) {
            out.push_str(&date(rng));
        }
        if rng.chance(0.15) {
            out.push_str(&format!(" (ticket {})", rng.between(1000, 9999)));
        }
        out.push('.');
        capitalise(out, start);
    }
}

fn name(rng: &mut Rng) -> String {
    let given = GIVEN_NAMES[rng.below(GIVEN_NAMES.len())];
    format!("{given} {}", FAMILY_NAMES[rng.below(FAMILY_NAMES.len())])
}

fn date(rng: &mut Rng) -> String {
    let (year, month, day) = (rng.between(2019, 2026), rng.between(1, 12), rng.between(1, 28));
    if rng.chance(0.5) {
        format!(" on {year}-{month:02}-{day:02}")
    } else {
        format!(" by {day} {} {year}", MONTHS[month - 1])
    }
}

/// `count` words of `text`, without punctuation.
fn pick<'t>(text: &'t str, count: usize, rng: &mut Rng) -> impl Iterator<Item = String> + use<'t> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let start = rng.below(words.len());
    (0..count).map(move |step| {
        let word = words[(start + step) % words.len()];
        word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned()
    })
}

/// Makes the letter at `start` a capital one (only ASCII words can need it).
fn capitalise(out: &mut str, start: usize) {
    if let Some(letter) = out.get_mut(start..=start) {
        letter.make_ascii_uppercase();
    }
}

/// The first number from `from` on that shares no factor with `count`.
fn coprime_with(count: u64, from: u64) -> u64 {
    (from..).find(|&candidate| gcd(candidate, count) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabulary_has_several_thousand_distinct_words() {
        let words = ranked_words();
        assert!(words.len() > 4000, "{}", words.len());
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
    }

    #[test]
    fn texts_depend_on_the_seed_and_the_index_only() {
        let (one, same, other) = (Texts::new(1, 10, 0), Texts::new(1, 99, 0), Texts::new(2, 10, 0));
        assert_eq!(one.text(Stream::Seed, 5), same.text(Stream::Seed, 5));
        assert_ne!(one.text(Stream::Seed, 5), one.text(Stream::Seed, 6));
        assert_ne!(one.text(Stream::Seed, 5), other.text(Stream::Seed, 5));
        assert_ne!(one.text(Stream::Write, 5), same.text(Stream::Write, 5));
    }

    #[test]
    fn texts_are_short_and_need_no_json_escape() {
        let texts = Texts::new(3, 4, 0);
        for index in 0..500 {
            let text = texts.text(Stream::Seed, index);
            assert!((20..700).contains(&text.len()), "{text}");
            assert!(text.ends_with('.') && !text.contains(['"', '\\', '\n']), "{text}");
            assert!(text.chars().next().is_some_and(|c| !c.is_lowercase()), "{text}");
        }
    }

    #[test]
    fn frequent_words_are_frequent() {
        let texts = Texts::new(3, 4, 0);
        let all: Vec<String> = (0..500).map(|i| texts.text(Stream::Seed, i).to_lowercase()).collect();
        let count = |word: &str| all.iter().flat_map(|t| t.split(' ')).filter(|w| *w == word).count();
        assert!(count("the") > 5 * count("without").max(1), "{} {}", count("the"), count("without"));
        let distinct: HashSet<&str> = all.iter().flat_map(|t| t.split(' ')).collect();
        assert!(distinct.len() > 1500, "{}", distinct.len());
    }

    #[test]
    fn questions_are_never_repeated() {
        for seeded in [0, 100] {
            let texts = Texts::new(1, u64::MAX - 10_000, seeded);
            let questions: HashSet<String> = (0..20_000).map(|n| texts.question(n)).collect();
            assert_eq!(questions.len(), 20_000);
            assert!(questions.iter().all(|q| (4..=9).contains(&q.split(' ').count())));
        }
        let texts = Texts::new(1, 5, 0);
        let signatures: HashSet<_> = (0..200_000).map(|n| texts.signature(n)).collect();
        assert_eq!(signatures.len(), 200_000);
    }
}
