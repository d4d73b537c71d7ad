//! `aionis config reference`: what settings there are, made from the command line's own definition.

use std::fmt::Write;

use clap::Args;

use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{
        catalog::{Variable, variables},
        retired::retired,
    },
};

/// Flags of `aionis config reference`.
#[derive(Debug, Args)]
pub(super) struct ReferenceArgs {
    /// How it is written.
    #[arg(long, value_enum, default_value_t = Format::Markdown)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Commented variables with their defaults, for `.env.example`.
    Env,
    /// Tables, for `docs/configuration.md`.
    Markdown,
}

pub(super) fn run(args: &ReferenceArgs) -> Result<Verdict, Failure> {
    let groups = grouped(variables(&crate::command()));
    let mut text = String::new();
    let written = match args.format {
        Format::Env => env(&groups, &mut text),
        Format::Markdown => markdown(&groups, &mut text),
    };
    written.map_err(Failure::new)?;
    output::line(text.trim_end());
    Ok(Verdict::Positive)
}

/// Variables by what they are about, both in the order of their definition.
fn grouped(all: Vec<Variable>) -> Vec<(String, Vec<Variable>)> {
    let mut groups: Vec<(String, Vec<Variable>)> = Vec::new();
    for variable in all {
        match groups.iter_mut().find(|(name, _)| *name == variable.group) {
            Some((_, members)) => members.push(variable),
            None => groups.push((variable.group.clone(), vec![variable])),
        }
    }
    groups
}

fn env(groups: &[(String, Vec<Variable>)], text: &mut String) -> std::fmt::Result {
    writeln!(text, "# Settings of aionis with their defaults. Written by `aionis config reference --format env`.")?;
    text.push_str(FILE_REMARK);
    for (name, members) in groups {
        writeln!(text, "\n# --- {name} ---")?;
        for variable in members {
            let default = variable.default.as_deref().unwrap_or_default();
            let default = if default.contains(' ') { format!("\"{default}\"") } else { default.to_owned() };
            writeln!(text, "\n# {} ({})", variable.help, variable.kind)?;
            writeln!(text, "# {}={default}", variable.name)?;
        }
    }
    Ok(())
}

const FILE_REMARK: &str = "\
# Read by every command that has settings, with --env-file PATH; variables that are set already win.
# Lines are NAME=value and nothing is substituted: a value with a space or one of '\"$`\\#&;|<>()~ stands in single quotes.
";

fn markdown(groups: &[(String, Vec<Variable>)], text: &mut String) -> std::fmt::Result {
    text.push_str(PREFACE);
    for (name, members) in groups {
        writeln!(text, "\n## {}\n", cell(name))?;
        writeln!(text, "| variable | flag | type | default | what it is |\n|---|---|---|---|---|")?;
        for variable in members {
            let default = match variable.default.as_deref() {
                Some("") | None => "unset".to_owned(),
                Some(default) => format!("`{default}`"),
            };
            let kind = if variable.is_secret { "secret".to_owned() } else { cell(&variable.kind) };
            writeln!(
                text,
                "| `{}` | `{}` | {kind} | {default} | {} |",
                variable.name,
                variable.flag,
                cell(&variable.help)
            )?;
        }
    }
    writeln!(text, "\n## Variables of the reference that are not read\n")?;
    writeln!(text, "The earlier TypeScript implementation read them. One that is set is named by a warning.\n")?;
    writeln!(text, "| variable | why not | instead |\n|---|---|---|")?;
    for retired in retired() {
        writeln!(text, "| `{}` | {} | {} |", retired.name, cell(retired.reason), cell(retired.instead))?;
    }
    Ok(())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

const PREFACE: &str = "\
# Configuration

Every setting is a variable and a flag; the flag wins. Written by `aionis config reference --format markdown`, and
`.env.example` by `--format env`; a test compares both with the program.

* `aionis config check` checks everything without starting anything and reports all problems together; `aionis config print`
  shows what would be used, secrets as set or unset.
* A file of variables is read only if `--env-file PATH` or `AIONIS_ENV_FILE` names it, by every command that has settings and always
  alike. Variables that are set already win. No `.env` is read by itself.
* The file has `NAME=value` lines (`export ` may stand before), blank lines and lines that begin with `#`. Nothing is substituted. An
  unquoted value goes to the end of the line and holds none of `'` `\"` `$` `` ` `` `\\` `#` `&` `;` `|` `<` `>` `(` `)`, no space and no `~`
  at its beginning; a value in single quotes is what stands between them; in double quotes `\\n` `\\\"` `\\\\` `\\$` are escapes and
  there is no other `\\`, `$` or `` ` ``. What docker, shells and dotenv libraries would read differently is refused at start, all
  of it at once, with file, line, name and what to do. Docker's own `--env-file` keeps quotes as part of the value: give the
  file to the program, not to docker.
* A variable that begins with `MEMORY_` or `AIONIS_` and is no setting, or one that is nearly a setting, is named by a warning with the
  nearest setting; with `APP_ENV=prod` it stops the start. `AIONIS_TEST_*` belongs to the tests.
* An empty value is a value: `PORT=` is refused, `OPENAI_API_KEY=` means unset.
";
