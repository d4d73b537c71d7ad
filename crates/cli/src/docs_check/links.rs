//! Every relative link leads to a file of the repository, and to a heading of it where it names one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use super::{Document, documents, finding, none, root};

/// The path without `.` and `..`; none if it leaves the repository.
fn resolved(from: &Path, link: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in from.parent().unwrap_or(Path::new("")).join(link).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path.pop() => {}
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(path)
}

fn check(documents: &[Document], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let anchors: BTreeMap<&Path, &BTreeSet<String>> =
        documents.iter().map(|document| (document.path.as_path(), &document.anchors)).collect();
    let mut findings = Vec::new();
    for document in documents {
        for (link, line) in &document.links {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { Some(document.path.clone()) } else { resolved(&document.path, file) };
            let Some(target) = target.filter(|target| exists(target)) else {
                findings.push(finding(&document.path, *line, format!("the link {link} leads to no file")));
                continue;
            };
            let known = anchors.get(target.as_path());
            if !anchor.is_empty() && !known.is_some_and(|known| known.contains(anchor)) {
                findings.push(finding(
                    &document.path,
                    *line,
                    format!("the link {link} names no heading of its target"),
                ));
            }
        }
    }
    findings
}

#[test]
fn every_link_resolves() {
    let root = root();
    none(&check(&documents(), |path| root.join(path).exists()));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let there = Document::parse(Path::new("docs/b.md"), "## The end\n");
    let exists = |path: &Path| path == Path::new("docs/b.md") || path == Path::new("docs/adr/a.md");
    let findings = |text: &str| {
        let planted = Document::parse(Path::new("docs/adr/a.md"), text);
        check(&[planted, Document::parse(&there.path, "## The end\n")], exists)
    };
    for sound in ["[x](../b.md)", "[x](../b.md#the-end)", "# Here\n[x](#here)", "[x](https://example.org/none)"] {
        assert_eq!(findings(sound), Vec::<String>::new(), "{sound}");
    }
    for (planted, said) in [
        ("[x](b.md)", "docs/adr/a.md:1: the link b.md leads to no file"),
        ("\n[x](../b.md#the-start)", "docs/adr/a.md:2: the link ../b.md#the-start names no heading of its target"),
        ("[x](#here)", "docs/adr/a.md:1: the link #here names no heading of its target"),
        ("[x](../../../etc/passwd)", "docs/adr/a.md:1: the link ../../../etc/passwd leads to no file"),
    ] {
        assert_eq!(findings(planted), [said]);
    }
}
