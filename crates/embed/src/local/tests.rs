//! The local provider on a model of five tokens, and on the real one when it is at hand.

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::*;

/// Rows of `[UNK]`, `red`, `green`, `zero`, `blue`.
const ROWS: [[f32; 3]; 5] = [[0.0, 0.0, -2.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.5]];

fn tokenizer_json(unknown: &str) -> String {
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 1, "pad_type_id": 0, "pad_token": "red"
        },
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "WordLevel",
            "vocab": {"[UNK]": 0, "red": 1, "green": 2, "zero": 3, "blue": 4},
            "unk_token": unknown
        }
    })
    .to_string()
}

fn write_matrix(dir: &Path, name: &str, dtype: Dtype, rows: usize) {
    let values = ROWS.as_flattened().iter();
    let bytes: Vec<u8> = match dtype {
        Dtype::F16 => values.flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.flat_map(|value| value.to_le_bytes()).collect(),
    };
    let width = dtype.bitsize() / 8;
    let tensor = TensorView::new(dtype, vec![rows, 3], &bytes[..rows * 3 * width]).unwrap();
    std::fs::write(dir.join(MODEL_FILE), safetensors::serialize([(name, tensor)], None).unwrap()).unwrap();
}

fn tiny_dir(dtype: Dtype) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(TOKENIZER_FILE), tokenizer_json("[UNK]")).unwrap();
    write_matrix(dir.path(), "embeddings", dtype, 5);
    dir
}

fn tiny() -> LocalEmbedder {
    LocalEmbedder::load(tiny_dir(Dtype::F32).path(), "tiny").unwrap()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

#[tokio::test]
async fn vector_is_the_scaled_mean_of_the_known_tokens() {
    let expected = [vec![0.6, 0.8, 0.0], vec![1.0, 0.0, 0.0], vec![0.0, 0.0, -1.0], vec![0.0, 0.0, -1.0]];
    let asked = texts(&["red Green unheard-of", "RED red", "", "unheard of"]);
    for dtype in [Dtype::F32, Dtype::F16] {
        let model = LocalEmbedder::load(tiny_dir(dtype).path(), "tiny").unwrap();
        assert_eq!((model.name(), model.dim(), model.is_local()), ("local:tiny", 3, true));
        assert_eq!(model.embed(&asked, EmbedPurpose::Document).await.unwrap(), expected);
    }
}

#[test]
fn texts_without_direction_are_told_apart_one_by_one() {
    let each = tiny().embed_each(&texts(&["red", "unheard", "zero", ""]));
    assert_eq!(each, [Some(vec![1.0, 0.0, 0.0]), None, None, None]);
}

#[tokio::test]
async fn big_and_long_batches_equal_small_ones() {
    let model = tiny();
    let many: Vec<String> = (0..200).map(|at| if at % 2 == 0 { "red" } else { "green" }.to_owned()).collect();
    let vectors = model.embed(&many, EmbedPurpose::Query).await.unwrap();
    assert_eq!((vectors.len(), &vectors[198], &vectors[199]), (200, &vec![1.0, 0.0, 0.0], &vec![0.0, 1.0, 0.0]));
    let long = "red ".repeat(20_000);
    assert_eq!(model.embed(&[long], EmbedPurpose::Query).await.unwrap(), [[1.0, 0.0, 0.0]]);
}

#[test]
fn only_the_first_512_tokens_count() {
    let red = "red ".repeat(tokens::MAX_TOKENS);
    let each =
        tiny().embed_each(&[format!("{red} green"), format!("{}é{red}", " ".repeat(tokens::MAX_TEXT_BYTES - 1))]);
    assert_eq!(each, [Some(vec![1.0, 0.0, 0.0]), None]);
}

#[test]
fn unfit_files_are_named_with_the_reason() {
    let refusal = |change: &dyn Fn(&Path)| {
        let dir = tiny_dir(Dtype::F32);
        change(dir.path());
        LocalEmbedder::load(dir.path(), "tiny").unwrap_err().to_string()
    };
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(Change<'_>, &str, &str); 7] = [
        (&|dir| std::fs::remove_file(dir.join(MODEL_FILE)).unwrap(), MODEL_FILE, "cannot read"),
        (&|dir| std::fs::write(dir.join(MODEL_FILE), [255; 64]).unwrap(), MODEL_FILE, "too long"),
        (&|dir| write_matrix(dir, "weights", Dtype::F32, 5), MODEL_FILE, "exactly one tensor"),
        (&|dir| write_matrix(dir, "embeddings", Dtype::I32, 5), MODEL_FILE, "I32"),
        (&|dir| write_matrix(dir, "embeddings", Dtype::F32, 4), TOKENIZER_FILE, "ids reach 5"),
        (&|dir| std::fs::write(dir.join(TOKENIZER_FILE), "{").unwrap(), TOKENIZER_FILE, "not a tokenizer"),
        (
            &|dir| std::fs::write(dir.join(TOKENIZER_FILE), tokenizer_json("[NONE]")).unwrap(),
            TOKENIZER_FILE,
            "no unknown token",
        ),
    ];
    for (change, file, reason) in cases {
        let message = refusal(change);
        assert!(message.contains(file) && message.contains(reason), "{message}");
    }
    let message = refusal(&|dir| {
        let mut bytes = std::fs::read(dir.join(MODEL_FILE)).unwrap();
        bytes.pop();
        std::fs::write(dir.join(MODEL_FILE), bytes).unwrap();
    });
    assert!(message.contains("file length"), "{message}");
}

/// First components by the reference: the Python package model2vec 0.10.0 on the pinned files.
const REFERENCE: [(&str, [f32; 4]); 3] = [
    ("The quick brown fox jumps over the lazy dog.", [-0.213_264_47, -0.115_382_9, 0.075_971_484, -0.161_826_82]),
    ("Où est la bibliothèque? Zoë's naïve café 漢字 🙂", [0.049_283_534, -0.277_190_63, -0.251_126_23, -0.051_907_822]),
    (
        "deploy v2.3.1 to prod-eu-west-1 failed: ECONNREFUSED 10.0.0.1:5432",
        [-0.069_192_246, 0.106_347_79, -0.183_088_29, -0.327_014_92],
    ),
];

/// AIONIS_TEST_MODEL_REFERENCE may name a JSON file `[[text, vector], …]` of further reference vectors.
#[tokio::test]
async fn real_model_equals_reference_only_if_aionis_test_model_dir_is_set() {
    let Some(dir) = std::env::var_os("AIONIS_TEST_MODEL_DIR") else { return };
    let model = LocalEmbedder::load(Path::new(&dir), "potion-base-8M").unwrap();
    let asked: Vec<String> = REFERENCE.iter().map(|(text, _)| (*text).to_owned()).collect();
    let vectors = model.embed(&asked, EmbedPurpose::Query).await.unwrap();
    for (vector, (text, expected)) in vectors.iter().zip(REFERENCE) {
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-6 && vector.len() == 256);
        for (component, wanted) in vector.iter().zip(expected) {
            assert!((component - wanted).abs() < 5e-4, "{text}: {component} instead of {wanted}");
        }
    }
    if let Some(path) = std::env::var_os("AIONIS_TEST_MODEL_REFERENCE") {
        let reference: Vec<(String, Vec<f32>)> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let asked: Vec<String> = reference.iter().map(|(text, _)| text.clone()).collect();
        let vectors = model.embed(&asked, EmbedPurpose::Query).await.unwrap();
        for (vector, (text, expected)) in vectors.iter().zip(&reference) {
            let cosine = cosine(vector, expected);
            assert!(cosine > 0.999_999, "{text}: {cosine}");
        }
    }
}
