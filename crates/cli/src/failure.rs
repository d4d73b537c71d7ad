//! How a command ends.

use std::fmt;

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

/// An error for the person at the terminal: one line, with what to do, or one line per problem. Exit 1.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Vec<String>);

impl Failure {
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self(vec![one_line(&message)])
    }

    /// Several problems as one failure; nothing when there is none.
    pub(crate) fn unless_empty(problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self(problems.iter().map(|problem| one_line(problem)).collect())) }
    }

    /// Failures that were found together.
    pub(crate) fn all(failures: impl IntoIterator<Item = Self>) -> Self {
        Self(failures.into_iter().flat_map(|failure| failure.0).collect())
    }
}

fn one_line(text: &dyn fmt::Display) -> String {
    text.to_string().replace(['\n', '\r'], " ")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => f.write_str(one),
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

failure_from!(aionis_embed::BuildError, aionis_embed::model_files::ModelFileError, std::io::Error, serde_json::Error,);

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
