//! Every `aionis` command that a document shows is one the program takes.

use clap::error::ErrorKind;
use regex::Regex;

use super::{Code, Document, documents, finding, none};

/// What stands for something of the reader's: a word in capitals, in angle brackets, a variable, or with an ellipsis in it.
const PLACEHOLDER: &str = r"^(?:[A-Z][A-Z0-9_]*|<[^>]+>|\$\{?\w+\}?|.*…[^=]*)$";
/// What is tried in its place, because settings check their values.
const VALUES: [&str; 5] = [
    "1",
    "a",
    "6f1c3a54-6a3c-4c1f-9b62-0d6f0a0c7d11",
    "local",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
];
/// Words before a command that run it.
const RUNNERS: [&str; 6] = ["exec", "sudo", "time", "nice", "nohup", "env"];

/// The commands of a shell text: lines joined, comments gone, split where the shell splits.
fn split(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut commands = Vec::new();
    for line in joined.lines() {
        let line = line.trim().trim_start_matches("$ ");
        // A quote that goes over lines is data, such as a body of JSON: nothing of it is a command of ours.
        let Some(words) = shlex::split(&spaced(line)) else { continue };
        for command in words.split(|word| matches!(word.as_str(), "|" | "||" | "&&" | ";" | "&")) {
            commands.push(command.to_vec());
        }
    }
    commands
}

/// Operators of the shell as words of their own, outside quotes; redirections gone.
fn spaced(line: &str) -> String {
    let (mut out, mut quote) = (String::new(), None);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let is_redirection =
            c == '>' && out.trim_end_matches(['1', '2', '&']).chars().last().is_none_or(char::is_whitespace);
        match c {
            _ if quote == Some(c) => quote = None,
            _ if quote.is_some() => {}
            '\'' | '"' => quote = Some(c),
            ';' => out.push(' '),
            '|' | '&' if chars.peek() == Some(&c) => {
                out.push(' ');
                out.extend([c, c, ' ']);
                chars.next();
                continue;
            }
            '|' => out.push(' '),
            '>' if is_redirection => {
                out.truncate(out.trim_end_matches(['1', '2', '&']).len());
                // `>`, `>>`, `2>&1`, with or without a space before the file.
                while chars.next_if(|c| matches!(c, '>' | '&' | ' ')).is_some() {}
                while chars.next_if(|c| !c.is_whitespace()).is_some() {}
                continue;
            }
            _ => {}
        }
        out.push(c);
        if quote.is_none() && matches!(c, ';' | '|') {
            out.push(' ');
        }
    }
    out
}

/// Services of the compose files that run the program.
const SERVICES: [&str; 4] = ["api", "worker", "migrate", "aionis"];
/// Flags of `docker compose run` that have a value.
const RUN_FLAGS: [&str; 14] = [
    "-e",
    "--env",
    "--env-from-file",
    "-v",
    "--volume",
    "-u",
    "--user",
    "-w",
    "--workdir",
    "-p",
    "--publish",
    "-l",
    "--label",
    "--name",
];

/// What follows the service in the words after `docker compose … run`: its entry point is the program, so that these are
/// arguments, all of them. Nothing when it is another service, or what it does anyway.
fn run_arguments(words: &[String]) -> Option<&[String]> {
    let mut at = 0;
    while words.get(at).is_some_and(|word| word.starts_with('-')) {
        at += if RUN_FLAGS.contains(&words[at].as_str()) { 2 } else { 1 };
    }
    words.get(at).filter(|word| SERVICES.contains(&word.as_str()))?;
    Some(&words[at + 1..]).filter(|rest| !rest.is_empty())
}

/// The arguments of `aionis`, if that is what the command runs.
fn arguments(words: &[String]) -> Option<&[String]> {
    let is_aionis = |word: &String| word == "aionis" || word.ends_with("/aionis");
    let assignment = Regex::new(r"^[A-Za-z_][A-Za-z0-9_]*=").unwrap();
    let mut at = 0;
    while words.get(at).is_some_and(|word| assignment.is_match(word) || RUNNERS.contains(&word.as_str())) {
        at += 1;
    }
    let rest = &words[at..];
    // In a container: what follows the name of the program, or of the service whose entry point it is.
    if rest.first().is_some_and(|word| word == "docker" || word == "docker-compose") {
        let is_compose = rest[0] == "docker-compose" || rest.get(1).is_some_and(|word| word == "compose");
        if let Some(run) = rest.iter().position(|word| word == "run").filter(|_| is_compose) {
            return run_arguments(&rest[run + 1..]);
        }
        let inner = rest.iter().position(is_aionis)?;
        return Some(&rest[inner + 1..]);
    }
    rest.first().filter(|word| is_aionis(word)).map(|_| &rest[1..])
}

/// Why the program would refuse the arguments; none if it takes them.
fn refusal(arguments: &[String], is_block: bool) -> Option<String> {
    let placeholder = Regex::new(PLACEHOLDER).unwrap();
    let is_open = arguments.iter().any(|word| word == "…");
    let words: Vec<&String> = arguments.iter().filter(|word| *word != "…").collect();
    let mut last = None;
    for value in VALUES {
        let filled = words.iter().map(|word| match word.split_once('=') {
            Some((flag, given)) if flag.starts_with("--") && placeholder.is_match(given) => format!("{flag}={value}"),
            None if placeholder.is_match(word) => value.to_owned(),
            _ => (*word).clone(),
        });
        let with_name = std::iter::once("aionis".to_owned()).chain(filled);
        let error = match crate::command().try_get_matches_from(with_name) {
            Ok(_) => return None,
            Err(error) => error,
        };
        let said = error.to_string().lines().next().unwrap_or_default().to_owned();
        let lacks_value = error.kind() == ErrorKind::InvalidValue && said.contains("a value is required");
        let is_incomplete = lacks_value
            || matches!(
                error.kind(),
                ErrorKind::MissingSubcommand
                    | ErrorKind::MissingRequiredArgument
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            );
        // Within a sentence a command may be named without all it needs; so may one that is cut off by an ellipsis.
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
            || is_incomplete && (is_open || !is_block)
        {
            return None;
        }
        last = Some(said);
    }
    last
}

fn check_code(code: &Code) -> Vec<String> {
    let texts = match code.language {
        None if ["aionis ", "docker compose "].iter().any(|first| code.text.starts_with(first)) => &code.text,
        Some(_) if code.is_shell() => &code.text,
        _ => return Vec::new(),
    };
    let commands = split(texts);
    let ours = commands.iter().filter_map(|words| arguments(words).map(|arguments| (words, arguments)));
    ours.filter_map(|(words, arguments)| {
        refusal(arguments, code.language.is_some()).map(|why| format!("`{}`: {why}", words.join(" ")))
    })
    .collect()
}

fn check(documents: &[Document]) -> Vec<String> {
    let mut findings = Vec::new();
    for document in documents {
        for code in &document.code {
            findings.extend(check_code(code).into_iter().map(|what| finding(&document.path, code.line, what)));
        }
    }
    findings
}

#[test]
fn every_command_is_one_the_program_takes() {
    let documents = documents();
    none(&check(&documents));
    let blocks = documents.iter().flat_map(|document| &document.code).filter(|code| code.is_shell());
    let ours = blocks.flat_map(|code| split(&code.text)).filter(|words| arguments(words).is_some()).count();
    assert!(ours > 40, "only {ours} commands were found: the reader of blocks is blind");
}

#[test]
fn a_line_is_split_as_a_shell_splits_it() {
    let words = |line| split(line).into_iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(words("a b|c && d;e || f >x 2>&1 # g"), ["a b", "c", "d", "e", "f"]);
    assert_eq!(words("a 'b | c; d' \"e && f\" ghcr.io/<owner>/x:1"), ["a b | c; d e && f ghcr.io/<owner>/x:1"]);
    assert_eq!(words("a \\\n  --b"), ["a --b"]);
}

#[test]
fn a_command_the_program_refuses_is_found() {
    let shell = |text: &str| Code { language: Some("sh".to_owned()), text: text.to_owned(), line: 1 };
    let inline = |text: &str| Code { language: None, text: text.to_owned(), line: 1 };
    for sound in [
        shell("aionis verify --scope demo --json   # every scope"),
        shell("DATABASE_URL=postgres://u:p@h/d aionis migrate --dry-run && aionis verify | tee x"),
        shell("aionis keys rotate ID --grace 24h; aionis bench --server-pid PID >out 2>&1"),
        shell("aionis copy --from ./a --to postgres://user:password@host/database \\\n  --all"),
        shell("docker compose exec api aionis healthcheck\n$ sudo aionis doctor"),
        shell("docker compose --env-file .env.stack run --rm -v \"$PWD/a:/data/a\" worker job list --json"),
        shell("docker compose run --rm migrate\ndocker compose run db psql --nonsense"),
        shell("echo aionis nonsense\nother --flag"),
        inline("docker compose --env-file .env.stack run --rm worker verify"),
        inline("aionis job …"),
        inline("aionis copy --from … --to …"),
        inline("aionis serve --help"),
    ] {
        assert_eq!(check_code(&sound), Vec::<String>::new());
    }
    for planted in [
        shell("aionis verify --scpoe demo"),
        shell("aionis nonsense"),
        shell("target/release/aionis job nonsense --all"),
        shell("true && aionis keys revoke"),
        shell("docker compose run --rm worker worker --onec"),
        shell("docker compose run --rm worker aionis worker --once"),
        shell("docker compose run --rm -v a:/b -e KEY worker job nonsense"),
        shell("docker compose exec worker aionis worker --onec"),
        inline("docker compose --env-file .env.stack run --rm worker aionis job list"),
        shell("aionis bench --server-pid none"),
        inline("aionis job nonsense"),
        inline("aionis migrate --dry"),
    ] {
        assert_eq!(check_code(&planted).len(), 1, "{planted:?}");
    }
}
