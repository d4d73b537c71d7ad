//! What each crate of the workspace has to have.

use std::path::Path;

/// Crates without a section in the development profile: they would be compiled as dependencies are, which do not check
/// themselves and have no line numbers.
fn without_section<'a>(manifest: &str, crates: &[&'a str]) -> Vec<&'a str> {
    let sections: Vec<&str> = manifest.split("\n[").collect();
    let has_section = |name: &str| {
        let head = format!("profile.dev.package.{name}]\n");
        let wanted = ["debug = \"line-tables-only\"", "debug-assertions = true", "overflow-checks = true"];
        sections
            .iter()
            .filter(|section| section.starts_with(&head))
            .any(|section| wanted.iter().all(|wanted| section.lines().any(|line| line == *wanted)))
    };
    crates.iter().copied().filter(|name| !has_section(name)).collect()
}

#[test]
fn each_crate_checks_itself_in_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let manifests: Vec<String> = std::fs::read_dir(root.join("crates"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path().join("Cargo.toml")).unwrap())
        .collect();
    let names: Vec<&str> = manifests
        .iter()
        .map(|manifest| manifest.split("name = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap())
        .collect();
    assert!(names.contains(&"aionis-store"), "{names:?}");
    assert_eq!(without_section(&manifest, &names), Vec::<&str>::new());
    assert_eq!(without_section(&manifest, &["aionis-new"]), ["aionis-new"]);
    let unchecked = manifest.replace("overflow-checks = true", "");
    assert_eq!(without_section(&unchecked, &names), names);
}
