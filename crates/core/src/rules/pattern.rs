//! Regular expressions of the rule language: ECMAScript syntax without flags, run in time linear in the text.
//!
//! The syntax is translated, not passed on, so nothing another dialect knows (inline flags, Unicode classes) can slip
//! through. Differences to ECMAScript: look-around and backreferences are not supported, and `.` and classes match whole
//! characters where ECMAScript sees halves of those beyond U+FFFF.

use std::{fmt::Write as _, iter::Peekable, str::Chars};

use regex::{Regex, RegexBuilder};

/// Longest accepted pattern, in characters.
pub const PATTERN_MAX_CHARS: usize = 1000;
/// Largest compiled program, and largest cache while matching, in bytes.
const SIZE_LIMIT: usize = 256 * 1024;
/// Deepest nesting of groups.
const NEST_LIMIT: u32 = 64;

const DIGIT: &str = "0-9";
const WORD: &str = "A-Za-z0-9_";
const SPACE: &str = r"\x{9}-\x{D} \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}";

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// Why a pattern cannot be used; such a pattern matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternProblem {
    /// Not an ECMAScript regular expression.
    #[error("is not a valid ECMAScript regular expression: {0}")]
    Invalid(&'static str),
    /// Valid, but without a linear-time equivalent here.
    #[error("uses {0}, which is not supported because matching must take linear time")]
    Unsupported(&'static str),
    /// Longer, deeper or larger when compiled than the limits allow.
    #[error("is too large: keep it below {PATTERN_MAX_CHARS} characters and repetition counts low")]
    TooLarge,
}

impl Pattern {
    /// Compiles ECMAScript syntax.
    ///
    /// # Errors
    /// Why it cannot be used. The empty pattern is invalid: the language says it matches nothing.
    pub fn compile(source: &str) -> Result<Self, PatternProblem> {
        if source.is_empty() {
            return Err(PatternProblem::Invalid("it is empty"));
        }
        if source.chars().count() > PATTERN_MAX_CHARS {
            return Err(PatternProblem::TooLarge);
        }
        let translated = Translator::new(source).run()?;
        RegexBuilder::new(&translated)
            .size_limit(SIZE_LIMIT)
            .dfa_size_limit(SIZE_LIMIT)
            .nest_limit(NEST_LIMIT)
            .build()
            .map(Self)
            // What was translated is well formed, so only a limit can be in the way.
            .map_err(|_| PatternProblem::TooLarge)
    }

    /// Whether the pattern occurs anywhere in the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// One member of a character class, or what an escape stands for.
enum Atom {
    Char(char),
    /// A set, as the inside of a bracketed class.
    Set {
        inside: &'static str,
        negated: bool,
    },
}

struct Translator<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
    groups: usize,
}

type Step<T = ()> = Result<T, PatternProblem>;

const fn invalid<T>(why: &'static str) -> Step<T> {
    Err(PatternProblem::Invalid(why))
}

impl<'a> Translator<'a> {
    fn new(source: &'a str) -> Self {
        Self { rest: source.chars().peekable(), out: String::with_capacity(source.len() * 2), groups: 0 }
    }

    fn run(mut self) -> Step<String> {
        // Whether the last thing written can be repeated.
        let mut repeatable = false;
        while let Some(c) = self.rest.next() {
            repeatable = match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.open_group()?,
                ')' => self.close_group()?,
                '|' => self.write("|", false),
                '^' => self.write(r"\A", false),
                '$' => self.write(r"\z", false),
                '.' => self.write(r"[^\n\r\x{2028}\x{2029}]", true),
                '*' | '+' | '?' => {
                    let mut buffer = [0; 4];
                    self.repeat(repeatable, c.encode_utf8(&mut buffer))?
                }
                '{' => match self.counts()? {
                    Some(counts) => self.repeat(repeatable, &counts)?,
                    None => self.literal('{'),
                },
                other => self.literal(other),
            };
        }
        if self.groups > 0 {
            return invalid("a group is not closed");
        }
        Ok(self.out)
    }

    fn write(&mut self, text: &str, repeatable: bool) -> bool {
        self.out.push_str(text);
        repeatable
    }

    fn literal(&mut self, c: char) -> bool {
        push_char(&mut self.out, c);
        true
    }

    fn open_group(&mut self) -> Step<bool> {
        self.groups += 1;
        self.out.push_str("(?:");
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(false);
        }
        match (self.rest.next(), self.rest.peek()) {
            (Some(':'), _) => Ok(false),
            (Some('='), _) | (Some('!'), _) => Err(PatternProblem::Unsupported("look-ahead")),
            (Some('<'), Some('=' | '!')) => Err(PatternProblem::Unsupported("look-behind")),
            (Some('<'), _) => {
                let mut name = String::new();
                while let Some(c) = self.rest.next_if(|c| c.is_alphanumeric() || matches!(c, '_' | '$')) {
                    name.push(c);
                }
                let named = self.rest.next() == Some('>') && name.chars().next().is_some_and(|c| !c.is_numeric());
                if named { Ok(false) } else { invalid("a group has no proper name") }
            }
            _ => invalid("`(?` starts no known group (there are no inline flags)"),
        }
    }

    fn close_group(&mut self) -> Step<bool> {
        self.groups = self.groups.checked_sub(1).ok_or(PatternProblem::Invalid("`)` closes no group"))?;
        Ok(self.write(")", true))
    }

    fn repeat(&mut self, repeatable: bool, quantifier: &str) -> Step<bool> {
        if !repeatable {
            return invalid("nothing to repeat");
        }
        self.out.push_str(quantifier);
        if self.rest.next_if_eq(&'?').is_some() {
            self.out.push('?');
        }
        Ok(false)
    }

    /// Reads `{n}`, `{n,}` or `{n,m}` after its brace; anything else leaves the brace a literal.
    fn counts(&mut self) -> Step<Option<String>> {
        let inside: String = self.rest.clone().take_while(|c| *c != '}').take(24).collect();
        let (low, high) = inside.split_once(',').unwrap_or((&inside, &inside));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let closed = self.rest.clone().nth(inside.chars().count()) == Some('}');
        if !closed || !digits(low) || !(high.is_empty() || digits(high)) {
            return Ok(None);
        }
        self.rest.nth(inside.len());
        let low: u32 = low.parse().map_err(|_| PatternProblem::TooLarge)?;
        if high.is_empty() {
            return Ok(Some(format!("{{{low},}}")));
        }
        let high: u32 = high.parse().map_err(|_| PatternProblem::TooLarge)?;
        if high < low {
            invalid("a repetition's bounds are out of order")
        } else {
            Ok(Some(format!("{{{low},{high}}}")))
        }
    }

    fn escape(&mut self) -> Step<bool> {
        match self.rest.peek() {
            Some('b') => {
                self.rest.next();
                return Ok(self.write(r"(?-u:\b)", false));
            }
            Some('B') => {
                self.rest.next();
                return Ok(self.write(r"(?-u:\B)", false));
            }
            _ => {}
        }
        let atom = self.escaped_atom()?;
        self.out.push('[');
        push_atom(&mut self.out, &atom);
        self.out.push(']');
        Ok(true)
    }

    /// Reads what follows a backslash, outside of assertions.
    fn escaped_atom(&mut self) -> Step<Atom> {
        let set = |inside, negated| Ok(Atom::Set { inside, negated });
        let Some(c) = self.rest.next() else { return invalid("it ends in a backslash") };
        match c {
            'd' | 'D' => set(DIGIT, c == 'D'),
            'w' | 'W' => set(WORD, c == 'W'),
            's' | 'S' => set(SPACE, c == 'S'),
            't' => Ok(Atom::Char('\t')),
            'n' => Ok(Atom::Char('\n')),
            'v' => Ok(Atom::Char('\u{B}')),
            'f' => Ok(Atom::Char('\u{C}')),
            'r' => Ok(Atom::Char('\r')),
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => Ok(Atom::Char('\0')),
            '0'..='9' => Err(PatternProblem::Unsupported("a backreference or an octal escape")),
            'k' => Err(PatternProblem::Unsupported("a named backreference")),
            'p' | 'P' => Err(PatternProblem::Unsupported("a Unicode class, which needs a flag")),
            'c' => match self.rest.next() {
                Some(letter) if letter.is_ascii_alphabetic() => Ok(Atom::Char(char::from(letter as u8 % 32))),
                _ => Err(PatternProblem::Unsupported("`\\c` without a letter")),
            },
            'x' => Ok(self.hex(2).and_then(char::from_u32).map_or(Atom::Char('x'), Atom::Char)),
            'u' => self.unicode_escape(),
            other => Ok(Atom::Char(other)),
        }
    }

    fn unicode_escape(&mut self) -> Step<Atom> {
        if self.rest.peek() == Some(&'{') {
            return Err(PatternProblem::Unsupported("`\\u{…}`, which needs a flag"));
        }
        let Some(unit) = self.hex(4) else { return Ok(Atom::Char('u')) };
        if let Some(c) = char::from_u32(unit) {
            return Ok(Atom::Char(c));
        }
        let halves = self.rest.next_if_eq(&'\\').and_then(|_| self.rest.next_if_eq(&'u')).and_then(|_| self.hex(4));
        let units = halves.map(|low| [unit, low].map(|u| u16::try_from(u).unwrap_or(0)));
        let whole = units.and_then(|units| char::decode_utf16(units).next()?.ok());
        whole.map(Atom::Char).ok_or(PatternProblem::Unsupported("half a character"))
    }

    /// Reads exactly `count` hex digits, or nothing.
    fn hex(&mut self, count: usize) -> Option<u32> {
        let digits: String = self.rest.clone().take(count).collect();
        let all = digits.len() == count && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u32::from_str_radix(&digits, 16).ok().filter(|_| all)?;
        self.rest.nth(count - 1);
        Some(number)
    }

    fn class(&mut self) -> Step<bool> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut inside = String::new();
        loop {
            let Some(c) = self.rest.next() else { return invalid("a character class is not closed") };
            if c == ']' {
                break;
            }
            let low = self.class_atom(c)?;
            let mut ahead = self.rest.clone();
            let (dash, end) = (ahead.next(), ahead.next());
            let range_end = end.filter(|end| dash == Some('-') && *end != ']');
            let Some(end) = range_end else {
                push_atom(&mut inside, &low);
                continue;
            };
            self.rest = ahead;
            match (low, self.class_atom(end)?) {
                (Atom::Char(low), Atom::Char(high)) if low > high => return invalid("a range is out of order"),
                (Atom::Char(low), Atom::Char(high)) => {
                    push_char(&mut inside, low);
                    inside.push('-');
                    push_char(&mut inside, high);
                }
                // `[\d-x]` is no range: ECMAScript takes all three as members.
                (low, high) => {
                    push_atom(&mut inside, &low);
                    push_char(&mut inside, '-');
                    push_atom(&mut inside, &high);
                }
            }
        }
        let text = match (inside.is_empty(), negated) {
            (true, false) => "[a&&b]".to_owned(),
            (true, true) => "(?s:.)".to_owned(),
            (false, false) => format!("[{inside}]"),
            (false, true) => format!("[^{inside}]"),
        };
        Ok(self.write(&text, true))
    }

    fn class_atom(&mut self, c: char) -> Step<Atom> {
        match (c, self.rest.peek()) {
            ('\\', Some('b')) => {
                self.rest.next();
                Ok(Atom::Char('\u{8}'))
            }
            ('\\', _) => self.escaped_atom(),
            _ => Ok(Atom::Char(c)),
        }
    }
}

/// Writes a character so that it means itself anywhere, in classes too.
fn push_char(out: &mut String, c: char) {
    if c.is_alphanumeric() {
        out.push(c);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
    }
}

fn push_atom(out: &mut String, atom: &Atom) {
    match atom {
        Atom::Char(c) => push_char(out, *c),
        Atom::Set { inside, negated } => {
            out.push_str(if *negated { "[^" } else { "[" });
            out.push_str(inside);
            out.push(']');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ecmascript_syntax_means_what_it_means_there() {
        let cases = [
            ("b", "abc", true),
            ("^b", "abc", false),
            ("c$", "abc\n", false),
            ("^a.c$", "a\u{2028}c", false),
            (r"^\d+$", "٣", false),
            (r"^\w$", "é", false),
            (r"^\s$", "\u{FEFF}", true),
            (r"\bfoo\b", "éfooé", true),
            (r"a\Bb", "ab", true),
            ("a{2}", "caab", true),
            ("a{,2}", "a{,2}", true),
            ("a{", "a{", true),
            ("x]}", "x]}", true),
            (r"[\d-x]", "-", true),
            ("[a-c&&b]", "&", true),
            ("[[a]", "[", true),
            ("[^]", "\n", true),
            ("[]", "a", false),
            (r"\u0041\x42\cJ\0", "AB\n\0", true),
            (r"\uD83D\uDE00", "😀", true),
            (r"\<\#\-\e", "<#-e", true),
            ("(?<y>a)|(?:b)", "b", true),
            ("a*?b+?c??", "b", true),
            (r"[\b]", "\u{8}", true),
            ("(|a)+$", "", true),
            (r"[^\S\n]", "\n", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Pattern::compile(pattern).unwrap().is_match(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        for bad in
            ["", "(?i)x", "(?i:x)", "(?P<x>a)", "(", ")", "[a", "*a", "a**", "^*", "{1}", "a{2,1}", "[b-a]", "\\"]
        {
            assert!(matches!(Pattern::compile(bad), Err(PatternProblem::Invalid(_))), "{bad}");
        }
        for unsupported in ["(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", r"\k<a>", r"\p{L}", r"\uD83D", r"\u{41}"]
        {
            assert!(matches!(Pattern::compile(unsupported), Err(PatternProblem::Unsupported(_))), "{unsupported}");
        }
        let deep = format!("{}a{}", "(".repeat(400), ")".repeat(400));
        for large in [&"a".repeat(1001), "((a{1000}){1000}){1000}", "a{99999999999}", &deep] {
            assert_eq!(Pattern::compile(large).err(), Some(PatternProblem::TooLarge), "{large:.20}");
        }
    }

    #[test]
    fn w_18_catastrophic_patterns_take_linear_time() {
        let text = format!("{}!", "a".repeat(100_000));
        assert!(!Pattern::compile("^(a+)+$").unwrap().is_match(&text));
    }

    proptest! {
        /// A pattern is translated into well-formed syntax, or refused for what it is.
        #[test]
        fn translation_is_well_formed(source in r"[\\\[\](){}*+?|^$.,:<>=!a-dx0-3bdwWuk&~-]{0,12}") {
            if let Ok(translated) = Translator::new(&source).run() {
                let built = RegexBuilder::new(&translated).size_limit(1 << 24).build();
                let large = matches!(&built, Err(regex::Error::CompiledTooBig(_)));
                prop_assert!(built.is_ok() || large, "{source} -> {translated}: {:?}", built.err());
            }
        }

        #[test]
        fn an_escaped_text_matches_itself(text in "\\PC{1,20}") {
            let escaped: String = text.chars().map(|c| if c.is_alphanumeric() { c.to_string() } else { format!("\\{c}") }).collect();
            prop_assert!(Pattern::compile(&escaped).unwrap().is_match(&text));
        }
    }
}
