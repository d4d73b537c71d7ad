//! What settings there are, read from the command line's own definition: nothing is listed a second time.

use std::{any::TypeId, ffi::OsStr, net::IpAddr, path::PathBuf};

use clap::{Arg, ArgAction, Command, builder::ValueParser, error::ContextKind, error::ContextValue};

/// Numbers no bounded setting takes all of; what they are refused with says the bounds.
const PROBES: [&str; 4] = ["18446744073709551615", "9223372036854775807", "0", "-1"];

/// One setting that can be given as a variable.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    /// Name in the environment.
    pub(crate) name: String,
    /// Name on the command line, with its dashes.
    pub(crate) flag: String,
    /// What it is about.
    pub(crate) group: String,
    /// Type and bounds, for people.
    pub(crate) kind: String,
    /// Value when it is unset, if there is one to show.
    pub(crate) default: Option<String>,
    /// Whether its value is never shown.
    pub(crate) is_secret: bool,
    /// What it is.
    pub(crate) help: String,
    parser: ValueParser,
}

/// The variables of a command and the commands below it, each once, in the order of their definition.
pub(crate) fn variables(command: &Command) -> Vec<Variable> {
    let mut found: Vec<Variable> = Vec::new();
    collect(command, &mut found);
    found
}

fn collect(command: &Command, found: &mut Vec<Variable>) {
    for variable in command.get_arguments().filter_map(|arg| Variable::of(command, arg)) {
        if !found.iter().any(|known| known.name == variable.name) {
            found.push(variable);
        }
    }
    command.get_subcommands().for_each(|below| collect(below, found));
}

impl Variable {
    fn of(command: &Command, arg: &Arg) -> Option<Self> {
        let name = arg.get_env()?.to_str()?.to_owned();
        let defaults = if arg.is_hide_default_value_set() { &[] } else { arg.get_default_values() };
        let parser = arg.get_value_parser().clone();
        Some(Self {
            name,
            flag: arg.get_long().map(|long| format!("--{long}")).unwrap_or_default(),
            group: arg.get_help_heading().map_or_else(|| format!("aionis {}", command.get_name()), str::to_owned),
            kind: kind(arg, &parser),
            default: defaults.first().map(|value| value.to_string_lossy().into_owned()),
            is_secret: arg.is_hide_env_values_set(),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            parser,
        })
    }

    /// Why a value cannot be used, without the value.
    pub(crate) fn refusal(&self, value: &OsStr) -> Option<String> {
        let reason = refusal(&self.parser, value)?;
        Some(if self.kind.starts_with("integer") { format!("must be an {}", self.kind) } else { reason })
    }
}

/// Asks the parser itself. An argument alone, because that of the command may depend on others.
fn refusal(parser: &ValueParser, value: &OsStr) -> Option<String> {
    let mut text = std::ffi::OsString::from("--value=");
    text.push(value);
    let arg = Arg::new("value").long("value").action(ArgAction::Set).value_parser(parser.clone());
    let command = Command::new("setting").no_binary_name(true).disable_help_flag(true).arg(arg);
    let error = command.try_get_matches_from([text]).err()?;
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue)
        && !allowed.is_empty()
    {
        return Some(format!("must be one of {}", allowed.join(", ")));
    }
    if error.kind() == clap::error::ErrorKind::InvalidUtf8 {
        return Some("must be UTF-8".to_owned());
    }
    Some(std::error::Error::source(&error).map_or_else(|| "must not be empty".to_owned(), ToString::to_string))
}

fn kind(arg: &Arg, parser: &ValueParser) -> String {
    let is = |id: TypeId| parser.type_id() == id;
    let integers = [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<i64>()];
    if is(TypeId::of::<bool>()) {
        return "true or false".to_owned();
    }
    if integers.into_iter().any(is) {
        return bounds(parser).map_or_else(|| "integer".to_owned(), |bounds| format!("integer {bounds}"));
    }
    let allowed: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !allowed.is_empty() {
        return allowed.join(", ");
    }
    if is(TypeId::of::<PathBuf>()) {
        return "path".to_owned();
    }
    if is(TypeId::of::<IpAddr>()) {
        return "IP address".to_owned();
    }
    if is(TypeId::of::<f64>()) || is(TypeId::of::<f32>()) {
        return "number".to_owned();
    }
    "text".to_owned()
}

/// The bounds of a number, as its parser tells them when it refuses one: `from 1 to 64`.
fn bounds(parser: &ValueParser) -> Option<String> {
    let told = PROBES.iter().find_map(|probe| {
        let reason = refusal(parser, OsStr::new(probe))?;
        reason.rsplit_once(" is not in ").map(|(_, bounds)| bounds.to_owned())
    })?;
    let (low, high) = told.split_once("..")?;
    let high = high.trim_start_matches('=');
    let unbounded = high.is_empty() || high == u64::MAX.to_string() || high == i64::MAX.to_string();
    Some(if unbounded { format!("from {low}") } else { format!("from {low} to {high}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_tells_its_bounds() {
        let all = variables(&crate::command());
        let numbers: Vec<_> = all.iter().filter(|v| v.kind.starts_with("integer")).collect();
        assert!(numbers.len() > 20);
        for number in numbers {
            assert!(number.kind.contains("from"), "{number:?}");
        }
        let readers = all.iter().find(|v| v.name == "AIONIS_READERS").unwrap();
        assert_eq!((readers.kind.as_str(), readers.default.as_deref()), ("integer from 1 to 64", Some("4")));
        assert_eq!(readers.refusal(OsStr::new("65")).as_deref(), Some("must be an integer from 1 to 64"));
        assert_eq!(readers.refusal(OsStr::new("64")), None);
    }

    #[test]
    fn every_variable_says_what_it_is() {
        for variable in variables(&crate::command()) {
            assert!(variable.help.len() > 10 && !variable.flag.is_empty(), "{variable:?}");
            assert!(!variable.group.is_empty() && variable.name.bytes().all(|b| b != b' '), "{variable:?}");
        }
    }

    #[test]
    fn every_default_is_a_value_the_setting_takes() {
        for variable in variables(&crate::command()) {
            if let Some(default) = &variable.default {
                assert_eq!(variable.refusal(OsStr::new(default)), None, "{variable:?}");
            }
        }
    }

    /// A setting is a question an operator has to answer; there should be no more of them than this. Half of them are
    /// thresholds of jobs and figures of the release gate, under the names they always had.
    #[test]
    fn there_are_not_too_many_settings() {
        let count = variables(&crate::command()).len();
        assert!(count <= 240, "{count} settings");
    }
}
