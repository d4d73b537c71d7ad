//! `aionis openapi`.

use clap::Args;

use crate::{
    failure::{Failure, Verdict},
    output,
};

/// Flags of `aionis openapi`.
#[derive(Debug, Args)]
pub(crate) struct OpenapiArgs {
    /// Print the table of error codes as Markdown instead.
    #[arg(long)]
    error_table: bool,
}

pub(crate) fn run(args: &OpenapiArgs) -> Result<Verdict, Failure> {
    let text = if args.error_table { aionis_api::error_table() } else { aionis_api::document_text().to_owned() };
    output::line(text.trim_end());
    Ok(Verdict::Positive)
}
