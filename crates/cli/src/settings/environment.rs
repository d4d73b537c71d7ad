//! What stands in the environment, checked as a whole before the command line is read: the argument parser would stop at
//! the first value it cannot use.

use std::{
    ffi::{OsStr, OsString},
    fmt,
};

use clap::Command;

use super::{
    catalog::{Variable, variables},
    env_file,
    retired::{Retired, retired},
};
use crate::failure::Failure;

/// Every variable that begins so is one of ours, or misspelt.
const OWN: [&str; 2] = ["MEMORY_", "AIONIS_"];
/// Variables of other programs begin so too: only what nearly is one of ours is reported.
const SHARED: [&str; 12] = [
    "API_",
    "EMBED_",
    "EMBEDDING_",
    "OPENAI_",
    "MINIMAX_",
    "OUTBOX_",
    "RECALL_",
    "DB_",
    "TENANT_",
    "WRITE_",
    "RATE_LIMIT_",
    "READY_",
];
/// For the tests of this program.
const EXEMPT: &str = "AIONIS_TEST_";
/// Edits by which a name may differ from one of ours and still be meant for it.
const EDITS_MAX: usize = 3;
/// Characters of a refused value that are shown.
const SHOWN_MAX: usize = 80;

/// A variable that no setting reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// As it is written.
    pub(crate) name: String,
    /// The setting that is most like it.
    pub(crate) nearest: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no such setting; the nearest is {}: correct or remove it", self.name, self.nearest)
    }
}

/// Reads the file of variables a command names, and checks every variable the command reads.
///
/// # Errors
/// The file cannot be read, or values cannot be used: all of them are told.
pub(crate) fn prepare(root: &Command, args: &[OsString]) -> Result<(), Failure> {
    let asks_for_help = |arg: &OsString| ["--help", "-h", "--version", "-V"].iter().any(|flag| arg == flag);
    if args.iter().any(asks_for_help) {
        return Ok(());
    }
    let command = chosen(root, args);
    if reads_env_file(command) {
        env_file::load(args)?;
    }
    let own = not_overridden(variables(command), args);
    Failure::unless_empty(refused(&own, |name| std::env::var_os(name)))
}

/// The variables whose flag is not among the arguments: one that a flag overrides is not read, whatever it holds.
fn not_overridden(mut variables: Vec<Variable>, args: &[OsString]) -> Vec<Variable> {
    let flags: Vec<&str> = args
        .iter()
        .skip(1)
        .map_while(|arg| arg.to_str().filter(|arg| *arg != "--"))
        .map(|arg| arg.split_once('=').map_or(arg, |(flag, _)| flag))
        .collect();
    variables.retain(|variable| !flags.contains(&variable.flag.as_str()));
    variables
}

fn reads_env_file(command: &Command) -> bool {
    command.get_arguments().any(|arg| arg.get_id() == env_file::ID)
}

/// The command the arguments name, as deep as they name it.
fn chosen<'a>(root: &'a Command, args: &[OsString]) -> &'a Command {
    let names = args.iter().skip(1).map_while(|arg| arg.to_str());
    let mut command = root;
    for name in names {
        match command.find_subcommand(name) {
            Some(below) => command = below,
            None => break,
        }
    }
    command
}

fn refused(variables: &[Variable], value_of: impl Fn(&str) -> Option<OsString>) -> Vec<String> {
    variables
        .iter()
        .filter_map(|variable| {
            let value = value_of(&variable.name)?;
            let reason = variable.refusal(&value)?;
            Some(format!("{}: {reason} (given: {})", variable.name, shown(variable, &value)))
        })
        .collect()
}

fn shown(variable: &Variable, value: &OsStr) -> String {
    if variable.is_secret {
        return "a value that is not shown".to_owned();
    }
    let text = value.to_string_lossy();
    let short: String = text.chars().take(SHOWN_MAX).collect();
    format!("{short:?}{}", if short.len() < text.len() { "…" } else { "" })
}

/// Variables that no setting reads: most likely misspelt.
pub(crate) fn unknown() -> Vec<Unknown> {
    unknown_among(&names(), &set_names())
}

/// Variables of the earlier implementation that are set and have no meaning here.
pub(crate) fn retired_and_set() -> Vec<&'static Retired> {
    let set = set_names();
    retired().iter().filter(|retired| set.iter().any(|name| name == retired.name)).collect()
}

/// How many settings the environment gives.
pub(crate) fn count_set() -> usize {
    let set = set_names();
    names().iter().filter(|name| set.contains(name)).count()
}

/// Names of all settings.
pub(crate) fn names() -> Vec<String> {
    variables(&crate::command()).into_iter().map(|variable| variable.name).collect()
}

fn set_names() -> Vec<String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
}

fn unknown_among(known: &[String], set: &[String]) -> Vec<Unknown> {
    let mut unknown: Vec<Unknown> = set
        .iter()
        .filter(|name| !known.contains(name) && !name.starts_with(EXEMPT) && !is_service_link(name))
        .filter(|name| !retired().iter().any(|retired| retired.name == name.as_str()))
        .filter_map(|name| {
            if OWN.iter().any(|prefix| name.starts_with(prefix)) {
                let (_, nearest) = nearest(known.iter(), name)?;
                return Some(Unknown { name: name.clone(), nearest: nearest.clone() });
            }
            let prefix = SHARED.iter().find(|&&prefix| name.starts_with(prefix))?;
            // What is left of API_KEY behind its prefix is so short that any other name is nearly it.
            let alike = |known: &&String| known.starts_with(prefix) && known.len() > prefix.len() + EDITS_MAX;
            let (edits, nearest) = nearest(known.iter().filter(alike), name)?;
            (edits <= EDITS_MAX).then(|| Unknown { name: name.clone(), nearest: nearest.clone() })
        })
        .collect();
    unknown.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    unknown
}

/// Whether a container platform made the variable from the name of a service beside this one: `AIONIS_SERVICE_HOST`,
/// `AIONIS_PORT`, `AIONIS_PORT_3001_TCP_ADDR`, …
fn is_service_link(name: &str) -> bool {
    let after_port = name.rsplit_once("_PORT").map(|(_, rest)| rest);
    let is_port = |rest: &str| {
        let mut parts = rest.split('_').skip(1);
        rest.is_empty()
            || (parts.next().is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
                && parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol)))
    };
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || after_port.is_some_and(|rest| is_port(rest) || rest == "_ADDR" || rest == "_PROTO")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_port(&format!("_{rest}")))
}

fn nearest<'a>(known: impl Iterator<Item = &'a String>, name: &str) -> Option<(usize, &'a String)> {
    known.map(|candidate| (strsim::damerau_levenshtein(candidate, name), candidate)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown_of(set: &[&str]) -> Vec<(String, String)> {
        let set: Vec<String> = set.iter().map(|&name| name.to_owned()).collect();
        unknown_among(&names(), &set).into_iter().map(|unknown| (unknown.name, unknown.nearest)).collect()
    }

    #[test]
    fn variables_that_a_platform_makes_from_services_are_no_settings() {
        for name in [
            "AIONIS_SERVICE_HOST",
            "AIONIS_SERVICE_PORT_HTTP",
            "AIONIS_PORT",
            "AIONIS_PORT_3001_TCP",
            "MEMORY_PORT_3001_TCP_ADDR",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        for name in ["AIONIS_PORTS", "MEMORY_PORT_X", "AIONIS_SERVICE", "MEMORY_RECALL_PROFIL"] {
            assert!(!is_service_link(name), "{name}");
        }
    }

    #[test]
    fn misspelt_names_are_found_and_the_nearest_is_named() {
        let pair = |a: &str, b: &str| vec![(a.to_owned(), b.to_owned())];
        assert_eq!(unknown_of(&["AIONIS_DATADIR"]), pair("AIONIS_DATADIR", "AIONIS_DATA_DIR"));
        assert_eq!(unknown_of(&["MEMORY_TENANT"]), pair("MEMORY_TENANT", "MEMORY_TENANT_ID"));
        assert_eq!(unknown_of(&["OPENAI_APIKEY"]), pair("OPENAI_APIKEY", "OPENAI_API_KEY"));
        assert_eq!(unknown_of(&["DB_POOL_MAXX"]), pair("DB_POOL_MAXX", "DB_POOL_MAX"));
        assert_eq!(unknown_of(&["OUTBOX_BATCH_SZIE"]), pair("OUTBOX_BATCH_SZIE", "OUTBOX_BATCH_SIZE"));
    }

    #[test]
    fn names_of_other_programs_and_of_tests_are_left_alone() {
        assert_eq!(unknown_of(&["OPENAI_ORG_ID", "DB_HOST", "API_URL", "PATH", "AIONIS_TEST_PG_URL", "PORT"]), []);
        // One that is retired is reported as such, not as misspelt.
        assert_eq!(unknown_of(&["DB_POOL_IDLE_TIMEOUT_MS", "MEMORY_SHADOW_DUAL_WRITE_ENABLED"]), []);
    }

    #[test]
    fn all_values_that_cannot_be_used_are_told_and_secrets_are_not() {
        let root = crate::command();
        let all = variables(root.find_subcommand("serve").unwrap());
        let told = refused(&all, |name| match name {
            "PORT" => Some("70000".into()),
            "APP_ENV" => Some("production".into()),
            "PII_REDACTION" => Some("yes".into()),
            "AIONIS_MODEL_DIR" => Some("".into()),
            _ => None,
        });
        assert_eq!(
            told,
            [
                r#"AIONIS_MODEL_DIR: must not be empty (given: "")"#,
                r#"APP_ENV: must be one of dev, ci, prod (given: "production")"#,
                r#"PII_REDACTION: must be true or false (given: "yes")"#,
                r#"PORT: must be an integer from 0 to 65535 (given: "70000")"#,
            ]
        );
        let secret = all.iter().find(|variable| variable.name == "ADMIN_TOKEN").unwrap();
        assert!(!shown(secret, OsStr::new("hunter2")).contains("hunter2"));
    }

    #[test]
    fn a_variable_that_a_flag_overrides_is_not_looked_at() {
        let root = crate::command();
        let all = || variables(root.find_subcommand("serve").unwrap());
        let told = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            refused(&not_overridden(all(), &args), |name| (name == "PORT").then(|| "abc".into())).len()
        };
        assert_eq!((told(&["aionis", "serve"]), told(&["aionis", "serve", "--port-file", "x"])), (1, 1));
        assert_eq!((told(&["aionis", "serve", "--port", "1"]), told(&["aionis", "serve", "--port=1"])), (0, 0));
        assert_eq!(told(&["aionis", "serve", "--", "--port"]), 1);
    }

    /// A file that some commands read and others ignore sends those to another store.
    #[test]
    fn every_command_that_reads_settings_reads_the_file_of_variables() {
        fn walk(command: &Command, seen: &mut usize) {
            let reads_settings = command.get_arguments().any(|arg| arg.get_env().is_some());
            assert!(!reads_settings || reads_env_file(command), "{} ignores {}", command.get_name(), env_file::ID);
            *seen += usize::from(reads_settings);
            command.get_subcommands().for_each(|below| walk(below, seen));
        }
        let mut seen = 0;
        walk(&crate::command(), &mut seen);
        assert!(seen >= 18, "{seen}");
    }

    #[test]
    fn the_command_is_found_by_its_name() {
        let root = crate::command();
        let args = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(chosen(&root, &args(&["aionis", "config", "check", "--json"])).get_name(), "check");
        assert_eq!(chosen(&root, &args(&["aionis", "serve", "worker"])).get_name(), "serve");
        assert_eq!(chosen(&root, &args(&["aionis"])).get_name(), "aionis");
    }
}
