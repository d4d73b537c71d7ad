//! How a command ends.

use std::fmt;

use serde::Serialize;

/// Whether what was asked holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Exit 0.
    Positive,
    /// Exit 2.
    Negative,
}

impl From<bool> for Verdict {
    fn from(holds: bool) -> Self {
        if holds { Self::Positive } else { Self::Negative }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// The setting it is about, by its variable; none if it is about none.
    pub(crate) variable: Option<String>,
    /// What is wrong, in one line.
    pub(crate) problem: String,
    /// What to do, if that is more than to undo it.
    pub(crate) fix: Option<String>,
}

impl Problem {
    /// From a line as all messages here are written: what is wrong first, beginning with the variable if there is one;
    /// after a semicolon what to do.
    fn of_line(text: &dyn fmt::Display) -> Self {
        let line = one_line(text);
        let first = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        let is_variable = first.len() > 3 && !first.bytes().any(|b| b.is_ascii_lowercase());
        let variable = is_variable.then(|| first.to_owned());
        let (problem, fix) = match line.split_once("; ") {
            Some((problem, fix)) => (problem.to_owned(), Some(fix.to_owned())),
            None => (line, None),
        };
        Self { variable, problem, fix }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        self.fix.iter().try_for_each(|fix| write!(f, "; {fix}"))
    }
}

/// An error for the person at the terminal: one line, with what to do, or one line per problem. Exit 1.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Vec<Problem>);

impl Failure {
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self(vec![Problem::of_line(&message)])
    }

    /// Of problems that were found together.
    pub(crate) fn of(problems: impl IntoIterator<Item = Problem>) -> Self {
        Self(problems.into_iter().collect())
    }

    /// Several problems as one failure; nothing when there is none.
    pub(crate) fn unless_empty(problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self(problems.iter().map(|line| Problem::of_line(line)).collect()))
        }
    }

    /// Failures that were found together.
    pub(crate) fn all(failures: impl IntoIterator<Item = Self>) -> Self {
        Self(failures.into_iter().flat_map(|failure| failure.0).collect())
    }

    /// What is wrong, one by one.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.0
    }
}

fn one_line(text: &dyn fmt::Display) -> String {
    text.to_string().replace(['\n', '\r'], " ")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => one.fmt(f),
            several => {
                write!(f, "{} problems:", several.len())?;
                several.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

macro_rules! failure_from {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error)
            }
        })+
    };
}

failure_from!(
    aionis_embed::BuildError,
    aionis_embed::model_files::ModelFileError,
    aionis_store::postgres::partition::PartitionError,
    std::io::Error,
    serde_json::Error,
);

impl From<aionis_core::error::DomainError> for Failure {
    fn from(error: aionis_core::error::DomainError) -> Self {
        let mut text = match error.issues.first() {
            Some(issue) => format!("{}: {}", issue.path, issue.message),
            None => error.message,
        };
        if let Some(internal) = error.internal {
            text = format!("{text} ({internal})");
        }
        Self::new(text)
    }
}

impl From<aionis_core::ports::store::StoreError> for Failure {
    fn from(error: aionis_core::ports::store::StoreError) -> Self {
        match error {
            aionis_core::ports::store::StoreError::Rejected(error) => error.into(),
            other => Self::new(other),
        }
    }
}
