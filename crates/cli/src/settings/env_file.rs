//! A file of variables that `--env-file` or `AIONIS_ENV_FILE` names. Nothing is read unless it is named.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
};

use clap::Args;

use crate::failure::Failure;

/// The argument that names the file.
pub(crate) const ID: &str = "env_file";
const FLAG: &str = "--env-file";
const VARIABLE: &str = "AIONIS_ENV_FILE";

/// A file of variables, for commands that read one.
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
/// The file cannot be read or has a line that is none of NAME=value.
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
    let place = || format!("{FLAG} {}", path.display());
    let lines = dotenvy::from_path_iter(path).map_err(|e| match e {
        dotenvy::Error::Io(e) => Failure::new(format!("{} cannot be read: {e}", place())),
        _ => Failure::new(format!("{} cannot be read", place())),
    })?;
    let mut variables: Vec<(String, String)> = Vec::new();
    for line in lines {
        match line {
            Ok(variable) => variables.push(variable),
            Err(dotenvy::Error::Io(e)) => return Err(Failure::new(format!("{} cannot be read: {e}", place()))),
            Err(_) => {
                let after = variables.last().map_or("the beginning", |(name, _)| name);
                return Err(Failure::new(format!("{}: the line after {after} is not NAME=value", place())));
            }
        }
    }
    Ok(variables)
}
