//! Downloading the model.

use std::path::Path;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::install::Staging;
use super::{LOCAL_MODEL, ModelFileError, PinnedFile, PinnedModel};
use crate::http::{describe, install_crypto};

/// Where the model lies at its origin, pinned revision included.
pub const DEFAULT_MODEL_URL: &str =
    "https://huggingface.co/minishlab/potion-base-8M/resolve/bf8b056651a2c21b8d2565580b8569da283cab23";
/// Redirects followed; model hubs redirect to a content network.
const MAX_REDIRECTS: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of the server.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Downloads the built-in model into `dest` from `<url_base>/<file>` (see [`DEFAULT_MODEL_URL`]; a mirror is any web
/// folder with the same files). `progress` gets the bytes received so far and the bytes of all files.
///
/// # Errors
/// [`ModelFileError`] when the address is unusable, the server does not deliver, a file is not the pinned one, or
/// `dest` cannot be written. The destination is then as it was.
pub async fn pull(dest: &Path, url_base: &str, progress: impl FnMut(u64, u64) + Send) -> Result<(), ModelFileError> {
    pull_model(&LOCAL_MODEL, dest, url_base, progress).await
}

/// [`pull`] for any pinned model.
async fn pull_model(
    model: &PinnedModel,
    dest: &Path,
    url_base: &str,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<(), ModelFileError> {
    let base = parse_base(url_base)?;
    let client = client()?;
    let mut staging = Staging::new(dest)?;
    let (mut received, total) = (0_u64, model.total_size());
    progress(received, total);
    for pinned in model.files {
        let count = |bytes: u64| {
            received += bytes;
            progress(received, total);
        };
        download(&client, &file_url(&base, pinned.name)?, pinned, &mut staging, count).await?;
    }
    staging.commit(model)
}

fn client() -> Result<Client, ModelFileError> {
    install_crypto();
    let policy = Policy::custom(|attempt| {
        let downgrade =
            attempt.previous().last().is_some_and(|from| from.scheme() == "https") && attempt.url().scheme() != "https";
        if downgrade {
            attempt.error("redirected from https to an unencrypted address")
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else {
            attempt.follow()
        }
    });
    Client::builder()
        .redirect(policy)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .map_err(|error| ModelFileError::Address { reason: describe(error) })
}

fn parse_base(url_base: &str) -> Result<Url, ModelFileError> {
    let url = Url::parse(url_base.trim()).map_err(|error| ModelFileError::Address { reason: error.to_string() })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ModelFileError::Address { reason: "it must begin with http:// or https://".to_owned() });
    }
    Ok(url)
}

/// The address of one file: the name appended to the path, a query (a signature of a mirror, for example) kept.
fn file_url(base: &Url, name: &str) -> Result<Url, ModelFileError> {
    let mut url = base.clone();
    url.path_segments_mut()
        .map_err(|()| ModelFileError::Address { reason: "it has no path".to_owned() })?
        .pop_if_empty()
        .push(name);
    Ok(url)
}

/// Downloads one file into the staging folder. An optional file the server does not have is left out.
async fn download(
    client: &Client,
    url: &Url,
    pinned: &'static PinnedFile,
    staging: &mut Staging,
    mut count: impl FnMut(u64) + Send,
) -> Result<(), ModelFileError> {
    let fail = |reason: String| ModelFileError::Download {
        file: pinned.name.to_owned(),
        host: url.host_str().unwrap_or("the server").to_owned(),
        reason,
    };
    let mut response = client.get(url.clone()).send().await.map_err(|error| fail(describe(error)))?;
    let status = response.status();
    if status == reqwest::StatusCode::NOT_FOUND && pinned.optional {
        count(pinned.size);
        return Ok(());
    }
    if !status.is_success() {
        return Err(fail(format!("the server answered {status}")));
    }
    let mut file = staging.start(pinned)?;
    while let Some(chunk) = response.chunk().await.map_err(|error| fail(describe(error)))? {
        file.write(&chunk)?;
        count(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
    }
    staging.finish(file)
}

#[cfg(test)]
mod tests {
    use wiremock::matchers::{method, path, query_param};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::super::test_model::{MODEL, TINY, TOKENIZER};
    use super::super::verify::verify;
    use super::super::{MODEL_FILE, ModelStatus};
    use super::*;

    async fn serve(server: &MockServer, at: &str, response: ResponseTemplate) {
        Mock::given(method("GET")).and(path(at)).respond_with(response).mount(server).await;
    }

    fn bytes(content: &[u8]) -> ResponseTemplate {
        ResponseTemplate::new(200).set_body_bytes(content)
    }

    #[tokio::test]
    async fn files_arrive_through_a_redirect_and_progress_ends_at_the_total() {
        let (server, dest) = (MockServer::start().await, tempfile::tempdir().unwrap());
        let elsewhere = MockServer::start().await;
        serve(&server, "/tiny/tokenizer.json", bytes(TOKENIZER)).await;
        let moved = format!("{}/blob?sig=1", elsewhere.uri());
        let redirect = ResponseTemplate::new(302).insert_header("location", moved.as_str());
        serve(&server, "/tiny/model.safetensors", redirect).await;
        let blob = Mock::given(path("/blob")).and(query_param("sig", "1"));
        blob.respond_with(bytes(MODEL)).mount(&elsewhere).await;
        let mut seen = Vec::new();
        let base = format!("{}/tiny/", server.uri());
        pull_model(&TINY, dest.path(), &base, |done, total| seen.push((done, total))).await.unwrap();
        assert_eq!(verify(&TINY, dest.path()).unwrap(), ModelStatus::Valid);
        assert_eq!((seen.first(), seen.last()), (Some(&(0, 32)), Some(&(32, 32))));
    }

    #[tokio::test]
    async fn other_content_is_refused_and_nothing_stays() {
        for content in [b"a matrix of number?".as_slice(), b"a matrix of numbers, endless", b""] {
            let (server, dest) = (MockServer::start().await, tempfile::tempdir().unwrap());
            serve(&server, "/tokenizer.json", bytes(TOKENIZER)).await;
            serve(&server, "/model.safetensors", bytes(content)).await;
            let error = pull_model(&TINY, dest.path(), &server.uri(), |_, _| ()).await.unwrap_err();
            assert!(matches!(&error, ModelFileError::Mismatch { file, .. } if file == MODEL_FILE), "{error}");
            assert_eq!(std::fs::read_dir(dest.path()).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn server_errors_and_unusable_addresses_are_told() {
        let (server, dest) = (MockServer::start().await, tempfile::tempdir().unwrap());
        let base = server.uri().replace("http://", "http://user:secret@");
        let error = pull_model(&TINY, dest.path(), &base, |_, _| ()).await.unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains("404") && !error.contains("secret"), "{error}");
        for address in ["", "ftp://host/model", "model folder"] {
            let error = pull_model(&TINY, dest.path(), address, |_, _| ()).await.unwrap_err();
            assert!(error.to_string().contains("AIONIS_MODEL_URL"), "{error}");
        }
    }

    #[test]
    fn default_address_holds_the_pinned_revision() {
        assert!(DEFAULT_MODEL_URL.ends_with(LOCAL_MODEL.revision));
        let url = file_url(&parse_base("https://mirror.example/a/?sig=x").unwrap(), MODEL_FILE).unwrap();
        assert_eq!(url.as_str(), "https://mirror.example/a/model.safetensors?sig=x");
    }
}
