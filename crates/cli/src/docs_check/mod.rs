//! `make docs-check`: what documents and delivery files say is compared with the program and the repository. Links resolve,
//! commands parse, variables, routes and make targets exist, the image has one name, workflows and compose files are sound.

mod commands;
mod delivery;
mod links;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A piece of code in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Code {
    /// Language of a block; none for code within a line.
    language: Option<String>,
    text: String,
    line: usize,
}

impl Code {
    /// Whether it is what one types into a shell.
    fn is_shell(&self) -> bool {
        self.language.as_deref().is_some_and(|language| matches!(language, "sh" | "bash" | "shell" | "console"))
    }
}

/// What the rules look at in one document.
#[derive(Debug, Default)]
struct Document {
    /// Path from the repository's root.
    path: PathBuf,
    links: Vec<(String, usize)>,
    anchors: BTreeSet<String>,
    code: Vec<Code>,
}

impl Document {
    fn parse(path: &Path, text: &str) -> Self {
        let mut document = Self { path: path.to_owned(), ..Self::default() };
        let mut slugs: BTreeMap<String, usize> = BTreeMap::new();
        let mut heading: Option<String> = None;
        let mut block: Option<Code> = None;
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push((dest_url.into_string(), line(range.start)));
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let slug = slug(&heading.take().unwrap_or_default());
                    let seen = slugs.entry(slug.clone()).or_default();
                    document.anchors.insert(if *seen == 0 { slug } else { format!("{slug}-{seen}") });
                    *seen += 1;
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.split(' ').next().unwrap_or_default().to_owned(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    block = Some(Code { language: Some(language), text: String::new(), line: line(range.start) });
                }
                Event::End(TagEnd::CodeBlock) => document.code.extend(block.take()),
                Event::Text(part) => add(&part, &mut heading, &mut block),
                Event::Code(part) => {
                    add(&part, &mut heading, &mut None);
                    document.code.push(Code { language: None, text: part.into_string(), line: line(range.start) });
                }
                _ => {}
            }
        }
        document
    }
}

fn add(part: &CowStr<'_>, heading: &mut Option<String>, block: &mut Option<Code>) {
    if let Some(block) = block {
        block.text.push_str(part);
    } else if let Some(heading) = heading {
        heading.push_str(part);
    }
}

/// The anchor of a heading, as GitHub makes it.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// All files below a directory with one of these endings.
fn files(below: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![below.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                waiting.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The documents of the repository: those at its root and all below `docs`.
fn documents() -> Vec<Document> {
    let root = root();
    let at_root = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = at_root.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.extend(files(&root.join("docs"), &[".md"]));
    paths.sort();
    let read =
        |path: &PathBuf| Document::parse(path.strip_prefix(&root).unwrap(), &std::fs::read_to_string(path).unwrap());
    paths.iter().map(read).collect()
}

/// Files that deliver the program: workflows, compose files, Dockerfiles, scripts, the Makefile, profiles.
fn delivery_files() -> Vec<(PathBuf, String)> {
    let root = root();
    let mut paths = files(&root.join(".github"), &[".yml"]);
    for name in [".ci", "deploy", "scripts"] {
        paths.extend(files(&root.join(name), &[""]));
    }
    paths.extend(["Dockerfile", "Makefile", ".dockerignore", "docker-compose.yml"].map(|name| root.join(name)));
    paths.push(root.join("docker-compose.standalone.yml"));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(&root).unwrap().to_owned(), text)
    };
    paths.into_iter().map(read).collect()
}

/// One line of a finding.
fn finding(path: &Path, line: usize, what: impl std::fmt::Display) -> String {
    format!("{}:{line}: {what}", path.display())
}

fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn a_document_is_taken_apart() {
    let text = "# Ways `to` go\n\nSee [it](a.md#b) and `aionis verify`.\n\n## Ways\n## Ways\n\n```sh\naionis serve\n```\n\n| a |\n|---|\n| [x](y) |\n";
    let document = Document::parse(Path::new("d.md"), text);
    assert_eq!(document.links, [("a.md#b".to_owned(), 3), ("y".to_owned(), 14)]);
    assert_eq!(document.anchors.iter().map(String::as_str).collect::<Vec<_>>(), ["ways", "ways-1", "ways-to-go"]);
    let code: Vec<_> = document.code.iter().map(|c| (c.text.as_str(), c.is_shell(), c.line)).collect();
    assert_eq!(code, [("to", false, 1), ("aionis verify", false, 3), ("aionis serve\n", true, 8)]);
    assert_eq!(slug("POST /v1/memory/recall_text, again (2)"), "post-v1memoryrecall_text-again-2");
}
