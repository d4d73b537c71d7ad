//! A file of variables that `--env-file` or `AIONIS_ENV_FILE` names. Nothing is read unless it is named.
//!
//! Docker's `--env-file`, shells and the many dotenv libraries read such files differently: a `$` or a ` #` in a password
//! changes its meaning from one to the other. The format here is the part they agree on, written down:
//!
//! * `NAME=value` lines, optionally after `export `; blank lines; lines that begin with `#`.
//! * An unquoted value is taken to the end of the line, spaces at the end trimmed. It holds no space, quote, `$`, `#`, `\`
//!   or other character that a shell reads in a way of its own.
//! * A value wholly in single quotes is what stands between them.
//! * A value wholly in double quotes is what stands between them, with `\n`, `\"`, `\\` and `\$` for a line break, `"`, `\`
//!   and `$`. No other backslash, no bare `$`, no backquote.
//!
//! Nothing is ever substituted. Everything else is refused with its line, its name and what to do; a value is never shown.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
};

use clap::Args;

use crate::failure::{Failure, Problem};

/// The argument that names the file.
pub(crate) const ID: &str = "env_file";
const FLAG: &str = "--env-file";
const VARIABLE: &str = "AIONIS_ENV_FILE";
/// A file of variables is small; what is larger was named by mistake.
const BYTES_MAX: u64 = 1024 * 1024;

/// A file of variables, for commands that read settings.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "File of variables")]
pub(crate) struct EnvFileArgs {
    /// File with variables as NAME=value lines; variables that are set already win.
    #[arg(long, env = "AIONIS_ENV_FILE")]
    pub(crate) env_file: Option<PathBuf>,
}

/// Starts the program anew, as the same process, with the variables of the file that are not set yet; returns when there
/// are none. A process cannot safely change its own environment, and libraries read it too.
///
/// # Errors
/// The file cannot be read or has lines that are refused: all of them are told.
pub(crate) fn load(args: &[OsString]) -> Result<(), Failure> {
    let Some(path) = named(args).or_else(|| std::env::var_os(VARIABLE)) else { return Ok(()) };
    let missing: Vec<(String, String)> =
        read(&path)?.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let program = std::env::current_exe()?;
    let error = Command::new(program).args(args.iter().skip(1)).envs(missing).exec();
    Err(Failure::new(format!("cannot start with the variables of {}: {error}", path.display())))
}

fn named(args: &[OsString]) -> Option<OsString> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == FLAG {
            return args.next().cloned();
        }
        if let Some(path) = arg.to_str().and_then(|text| text.strip_prefix(FLAG)?.strip_prefix('=')) {
            return Some(path.into());
        }
    }
    None
}

/// The variables of a file. An error never shows a line: it may hold a secret.
fn read(path: &OsStr) -> Result<Vec<(String, String)>, Failure> {
    let unreadable = |why: &str| Failure::new(format!("{FLAG} {} cannot be read: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(|e| unreadable(&e.to_string()))?.len();
    if length > BYTES_MAX {
        return Err(unreadable(&format!("it has {length} bytes, more than {BYTES_MAX}; name another file")));
    }
    let bytes = std::fs::read(path).map_err(|e| unreadable(&e.to_string()))?;
    parse(&bytes).map_err(|refused| {
        Failure::of(refused.into_iter().map(|refused| {
            let place = format!("{}:{}", path.display(), refused.line);
            let of = refused.name.as_deref().map(|name| format!("{name} ")).unwrap_or_default();
            Problem {
                variable: refused.name.clone(),
                problem: format!("{place}: {of}{}", refused.problem),
                fix: Some(refused.fix.to_owned()),
            }
        }))
    })
}

/// A line that is not read.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    line: usize,
    /// Of the variable, if the line shows one.
    name: Option<String>,
    problem: String,
    fix: &'static str,
}

/// Why a value is refused, and what to do.
type Unsound = (String, &'static str);

/// The name a refused line shows, if any, and the rest.
type UnsoundLine<'a> = (Option<&'a str>, Unsound);

const NAME_IT: &str = "write NAME=value, a comment that begins with #, or nothing";
const QUOTE_IT: &str = "put the whole value in single quotes, as NAME='value'";
const NO_SPACE: &str = "put no space around the =";
const ESCAPE_IT: &str = "use single quotes, or the escapes \\n \\\" \\\\ \\$ alone";
const CLOSE_IT: &str = "begin and end the value with the same quote and write nothing after it, all on one line";
const NO_SINGLE: &str = "use double quotes, in which ' is a plain character";

fn parse(bytes: &[u8]) -> Result<Vec<(String, String)>, Vec<Refused>> {
    let mut variables: Vec<(String, String, usize)> = Vec::new();
    let mut refused = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let mut refuse = |name: Option<&str>, problem: String, fix| {
            refused.push(Refused { line: number, name: name.map(str::to_owned), problem, fix });
        };
        let Ok(line) = std::str::from_utf8(line) else {
            refuse(None, "is not UTF-8".to_owned(), "save the file as UTF-8");
            continue;
        };
        if line.starts_with('\u{feff}') {
            refuse(None, "begins with a byte order mark".to_owned(), "save the file as UTF-8 without one");
            continue;
        }
        match variable(line) {
            Ok(None) => {}
            Ok(Some((name, value))) => match variables.iter().find(|(known, ..)| known == name) {
                Some((_, _, earlier)) => {
                    let problem = format!("is set in line {earlier} already");
                    refuse(Some(name), problem, "keep one of the two lines");
                }
                None => variables.push((name.to_owned(), value, number)),
            },
            Err((name, (problem, fix))) => refuse(name, problem, fix),
        }
    }
    if refused.is_empty() {
        Ok(variables.into_iter().map(|(name, value, _)| (name, value)).collect())
    } else {
        Err(refused)
    }
}

/// The variable of a line, if it has one; else the name, if it shows one, and what is wrong.
fn variable(line: &str) -> Result<Option<(&str, String)>, UnsoundLine<'_>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).map_or(line, str::trim_start);
    let unnamed = |problem: &str| (None, (problem.to_owned(), NAME_IT));
    let (name, text) = line.split_once('=').ok_or_else(|| unnamed("has no ="))?;
    if is_name(name.trim_end()) && name != name.trim_end() {
        return Err((Some(name.trim_end()), ("has a space before the =".to_owned(), NO_SPACE)));
    }
    if !is_name(name) {
        return Err(unnamed("does not begin with the name of a variable"));
    }
    value(text).map(|value| Some((name, value))).map_err(|unsound| (Some(name), unsound))
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn value(text: &str) -> Result<String, Unsound> {
    if text.starts_with([' ', '\t']) {
        return Err(("has a space after the =".to_owned(), NO_SPACE));
    }
    if text.contains(|c: char| c.is_control() && c != '\t') {
        return Err((
            "has a control character in its value".to_owned(),
            "remove it; \\n in double quotes is a line break",
        ));
    }
    match text.chars().next() {
        Some('\'') => single_quoted(text),
        Some('"') => double_quoted(text),
        _ => unquoted(text),
    }
}

/// Characters that docker takes literally and a shell, or a dotenv library, does not.
const READ_DIFFERENTLY: &str = "'\"$`\\#&;|<>() \t";

fn unquoted(text: &str) -> Result<String, Unsound> {
    if let Some(found) = text.chars().find(|c| READ_DIFFERENTLY.contains(*c)) {
        let found = if found.is_whitespace() { "a space".to_owned() } else { format!("a {found}") };
        return Err((format!("has {found} in an unquoted value, which programs read differently"), QUOTE_IT));
    }
    // Shells put the home directory there.
    if text.starts_with('~') || text.contains(":~") {
        return Err(("has a ~ that a shell replaces".to_owned(), QUOTE_IT));
    }
    Ok(text.to_owned())
}

fn single_quoted(text: &str) -> Result<String, Unsound> {
    let inside = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    match inside {
        None => Err(("has a single quote that does not end the value it begins".to_owned(), CLOSE_IT)),
        Some(inside) if inside.contains('\'') => Err(("has a single quote within single quotes".to_owned(), NO_SINGLE)),
        Some(inside) => Ok(inside.to_owned()),
    }
}

fn double_quoted(text: &str) -> Result<String, Unsound> {
    let unclosed = || ("has a double quote that does not end the value it begins".to_owned(), CLOSE_IT);
    let mut chars = text.chars().skip(1);
    let mut value = String::new();
    loop {
        match chars.next().ok_or_else(unclosed)? {
            '"' => break,
            '\\' => value.push(match chars.next().ok_or_else(unclosed)? {
                'n' => '\n',
                escaped @ ('"' | '\\' | '$') => escaped,
                _ => return Err(("has a backslash that is no escape".to_owned(), ESCAPE_IT)),
            }),
            bare @ ('$' | '`') => {
                return Err((format!("has a bare {bare} in double quotes, which others substitute"), ESCAPE_IT));
            }
            plain => value.push(plain),
        }
    }
    if chars.next().is_some() { Err(unclosed()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text.as_bytes()).unwrap_or_else(|refused| panic!("{text}: {refused:?}"))
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        for (line, value) in [
            ("NAME=plain", "plain"),
            ("export NAME=plain", "plain"),
            ("  NAME=plain  \r", "plain"),
            ("NAME=", ""),
            ("NAME=''", ""),
            ("NAME=\"\"", ""),
            ("NAME=a=b,c=d", "a=b,c=d"),
            ("NAME=postgres://u:p%40@h/db?a=1", "postgres://u:p%40@h/db?a=1"),
            ("NAME={}", "{}"),
            ("NAME=*", "*"),
            ("NAME='pa$HOME ss#w\\n\"ord'", "pa$HOME ss#w\\n\"ord"),
            (r#"NAME="a\nb\"c\\d\$HOME # 'x'""#, "a\nb\"c\\d$HOME # 'x'"),
            (r#"NAME='{"key":{"tenant_id":"acme"}}'"#, r#"{"key":{"tenant_id":"acme"}}"#),
        ] {
            assert_eq!(parsed(line), [("NAME".to_owned(), value.to_owned())], "{line}");
        }
        assert_eq!(parsed("# NAME=x\n\n   \n  # more\n"), []);
        assert_eq!(parsed("exported=1\nA_1=2").len(), 2);
    }

    #[test]
    fn what_programs_read_differently_is_refused_by_name_and_never_shown() {
        for (line, problem) in [
            ("NAME=hunter2 # remark", "a space"),
            ("NAME=hunter2#x", "a #"),
            ("NAME=#hunter2", "a #"),
            ("NAME=hunter2$HOME", "a $"),
            ("NAME=hunter2`id`", "a `"),
            ("NAME=hunter2\\n", "a \\"),
            ("NAME=hunter2&x", "a &"),
            ("NAME=hunter2'x'", "a '"),
            ("NAME={\"hunter2\":1}", "a \""),
            ("NAME=~/hunter2", "a ~"),
            ("NAME=a:~hunter2", "a ~"),
            ("NAME= hunter2", "space after"),
            ("NAME =hunter2", "space before"),
            ("NAME='hunter2", "single quote that does not end"),
            ("NAME='", "single quote that does not end"),
            ("NAME='hunter2' # remark", "single quote that does not end"),
            ("NAME='hun'ter2'", "within single quotes"),
            ("NAME=\"hunter2", "double quote that does not end"),
            ("NAME=\"", "double quote that does not end"),
            ("NAME=\"hunter2\\", "double quote that does not end"),
            ("NAME=\"hunter2\" # remark", "double quote that does not end"),
            ("NAME=\"hunter2$HOME\"", "a bare $"),
            ("NAME=\"hunter2`id`\"", "a bare `"),
            ("NAME=\"hunter2\\t\"", "no escape"),
            ("NAME=hunter2\0", "control character"),
            ("OTHER=1\nNAME=1\nNAME=hunter2", "is set in line 2"),
        ] {
            let refused = parse(line.as_bytes()).unwrap_err();
            assert_eq!(refused.len(), 1, "{line}: {refused:?}");
            assert_eq!((refused[0].line, refused[0].name.as_deref()), (line.lines().count(), Some("NAME")), "{line}");
            assert!(refused[0].problem.contains(problem), "{line}: {refused:?}");
            assert!(!format!("{refused:?}").contains("hunter2"), "{line}: {refused:?}");
        }
    }

    #[test]
    fn a_line_without_a_variable_is_refused_and_not_shown() {
        for line in [
            "hunter2",
            "export hunter2",
            "hun ter2=x",
            "2hunter=x",
            "=hunter2",
            "-----BEGIN hunter2-----",
            "\u{feff}A=1",
        ] {
            let refused = parse(line.as_bytes()).unwrap_err();
            assert_eq!((refused.len(), &refused[0].name), (1, &None), "{line}");
            assert!(!format!("{refused:?}").contains("hunter"), "{refused:?}");
        }
        assert!(parse(b"NAME=\xff").unwrap_err()[0].problem.contains("UTF-8"));
    }

    #[test]
    fn all_lines_that_are_refused_are_told_together() {
        let refused = parse(b"A=a b\nB=ok\nC=\"$X\"\nnothing\n").unwrap_err();
        assert_eq!(refused.iter().map(|refused| refused.line).collect::<Vec<_>>(), [1, 3, 4]);
    }
}
