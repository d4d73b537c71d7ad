//! Workflows and compose files are YAML, and say what has to hold of a deployment.

use regex::Regex;
use yaml_rust2::{Yaml, YamlLoader};

use super::{delivery_files, none, root};

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The one document of a YAML file.
fn parse(text: &str) -> Result<Yaml, String> {
    let mut documents = YamlLoader::load_from_str(text).map_err(|e| e.to_string())?;
    match documents.len() {
        1 => Ok(documents.remove(0)),
        count => Err(format!("{count} documents")),
    }
}

fn yaml(name: &str) -> Yaml {
    parse(&file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn texts(list: &Yaml) -> Vec<&str> {
    list.as_vec().map_or(Vec::new(), |list| list.iter().filter_map(Yaml::as_str).collect())
}

/// A value of a service, also when it comes by `<<`.
fn of<'a>(service: &'a Yaml, key: &str) -> &'a Yaml {
    let own = &service[key];
    if own.is_badvalue() { &service["<<"][key] } else { own }
}

/// What is wrong with a compose file.
fn compose_problems(text: &str) -> Vec<String> {
    let compose = match parse(text) {
        Ok(compose) => compose,
        Err(e) => return vec![e],
    };
    let mut problems = Vec::new();
    for (name, service) in compose["services"].as_hash().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        let mut need = |holds: bool, what: &str| {
            if !holds {
                problems.push(format!("{name}: {what}"));
            }
        };
        let is_ours = of(service, "image").as_str().is_some_and(|image| image.starts_with("ghcr.io/"));
        let test = texts(&service["healthcheck"]["test"]).join(" ");
        match name {
            "db" => {
                need(service["ports"].is_badvalue(), "publishes the database");
                need(test.contains("pg_isready"), "is not asked whether it is ready");
            }
            "worker" => {
                need(texts(&service["command"]) == ["worker"], "does not run the program's own worker");
                need(test == "CMD aionis healthcheck --worker", "has a health check that cannot fail");
            }
            _ => {}
        }
        if is_ours {
            need(of(service, "read_only").as_bool() == Some(true), "may write into its image");
            need(texts(of(service, "cap_drop")) == ["ALL"], "keeps capabilities");
            need(service["entrypoint"].is_badvalue(), "does not run the program");
        }
        need(!of(service, "mem_limit").is_badvalue(), "has no limit of memory");
        need(!of(service, "restart").is_badvalue(), "has no restart policy");
        let latest =
            of(service, "image").as_str().is_some_and(|image| image.ends_with(":latest") || !image.contains(':'));
        need(!latest, "has an image that changes under its name");
    }
    let secret = Regex::new(r"\$\{([A-Z_]*(?:PASSWORD|KEYS_JSON|TOKEN)[A-Z_]*)(:?[-?])?").unwrap();
    for found in secret.captures_iter(text) {
        if found.get(2).is_none_or(|mode| mode.as_str() != ":?") {
            problems.push(format!("{} has a default or may be empty", &found[1]));
        }
    }
    problems
}

/// What is wrong with a workflow.
fn workflow_problems(text: &str) -> Vec<String> {
    let workflow = match parse(text) {
        Ok(workflow) => workflow,
        Err(e) => return vec![e],
    };
    let mut problems = Vec::new();
    if workflow["permissions"].is_badvalue() {
        problems.push("leaves the token all permissions".to_owned());
    }
    let pinned = Regex::new(r"^(?:\./.+|[\w.-]+/[\w./-]+@[0-9a-f]{40})$").unwrap();
    for (name, job) in workflow["jobs"].as_hash().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        let reuses = !job["uses"].is_badvalue();
        if !reuses && job["timeout-minutes"].is_badvalue() {
            problems.push(format!("{name} has no limit of time"));
        }
        let steps = job["steps"].as_vec().into_iter().flatten().chain(reuses.then_some(job));
        for uses in steps.filter_map(|step| step["uses"].as_str()) {
            if !pinned.is_match(uses) {
                problems.push(format!("{name} uses {uses}, which is not pinned to a commit"));
            }
        }
    }
    problems
}

fn dockerfile_problems(text: &str) -> Vec<&'static str> {
    let mut problems = Vec::new();
    let last = |word: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(word));
        lines.next_back().map(str::trim)
    };
    if text.starts_with("# syntax=") {
        problems.push("loads a frontend from a registry");
    }
    if last("USER ").is_none_or(|user| user == "root" || user == "0") {
        problems.push("runs as root");
    }
    if last("STOPSIGNAL ") != Some("SIGTERM") {
        problems.push("is not told to stop by SIGTERM");
    }
    if last("HEALTHCHECK ").is_none_or(|check| !check.contains(r#"CMD ["aionis", "healthcheck"]"#)) {
        problems.push("is not asked by its own program whether it is healthy");
    }
    if last("VOLUME ") != Some("/data") {
        problems.push("has no volume for data");
    }
    problems
}

fn workflows() -> Vec<String> {
    let paths = delivery_files().into_iter().map(|(path, _)| path.display().to_string());
    paths.filter(|path| path.starts_with(".github/workflows/")).collect()
}

#[test]
fn workflows_are_sound() {
    let names = workflows();
    for name in ["ci", "core-production-gate", "docker-publish", "docs"] {
        assert!(names.contains(&format!(".github/workflows/{name}.yml")), "{names:?}");
    }
    for name in names {
        let problems: Vec<String> =
            workflow_problems(&file(&name)).iter().map(|what| format!("{name}: {what}")).collect();
        none(&problems);
    }
}

#[test]
fn every_script_a_workflow_or_the_makefile_runs_is_there() {
    let script = Regex::new(r"(?:^|[\s'\x22(])((?:scripts|\.ci)/[a-z][a-z0-9-]*(?:\.sh|\.py)?)\b").unwrap();
    let mut missing = Vec::new();
    for (path, text) in delivery_files() {
        for found in script.captures_iter(&text) {
            if !root().join(&found[1]).exists() {
                missing.push(format!("{}: there is no {}", path.display(), &found[1]));
            }
        }
    }
    none(&missing);
}

/// An image is published only after everything that could hold it back.
#[test]
fn ops_25_an_image_is_published_only_after_the_gates() {
    let publish = yaml(".github/workflows/docker-publish.yml");
    let needs = texts(&publish["jobs"]["publish"]["needs"]);
    assert_eq!(needs, ["ci", "gate"]);
    for (job, workflow) in [("ci", "ci"), ("gate", "core-production-gate")] {
        let uses = publish["jobs"][job]["uses"].as_str();
        assert_eq!(uses, Some(format!("./.github/workflows/{workflow}.yml").as_str()));
        assert!(!yaml(&format!(".github/workflows/{workflow}.yml"))["on"]["workflow_call"].is_badvalue());
    }
    let text = file(".github/workflows/docker-publish.yml");
    assert!(text.contains("--sbom=true") && text.contains("--provenance=mode=max"));
}

/// The gate runs when anything changes that a deployment is made of.
#[test]
fn ops_25_the_gate_runs_for_whatever_is_deployed() {
    let gate = yaml(".github/workflows/core-production-gate.yml");
    let paths = texts(&gate["on"]["push"]["paths"]);
    for needed in [
        "crates/**",
        "Cargo.lock",
        "Dockerfile",
        ".dockerignore",
        "docker-compose*.yml",
        "deploy/**",
        "scripts/**",
        "Makefile",
    ] {
        assert!(paths.contains(&needed), "{needed} is not among {paths:?}");
    }
    let migrations = root().join("crates/store/src/postgres/migrations");
    assert!(migrations.is_dir(), "migrations are below crates, which the paths name");
}

#[test]
fn compose_files_are_sound() {
    for name in ["docker-compose.yml", "docker-compose.standalone.yml"] {
        assert_eq!(compose_problems(&file(name)), Vec::<String>::new(), "{name}");
    }
    let overlay = file("deploy/rehearsal/compose.host.yml").replace("!reset ", "");
    parse(&overlay).unwrap();
}

#[test]
fn the_dockerfile_is_sound() {
    assert_eq!(dockerfile_problems(&file("Dockerfile")), Vec::<&str>::new());
}

#[test]
fn what_is_wrong_with_a_compose_file_is_found() {
    let sound = file("docker-compose.yml");
    for (from, to, said) in [
        (
            r#"["worker"]"#,
            r#"["sh", "-c", "tsx src/jobs/outbox-worker.ts"]"#,
            "worker: does not run the program's own worker",
        ),
        (r#""aionis", "healthcheck", "--worker""#, r#""true""#, "worker: has a health check that cannot fail"),
        ("    shm_size: 256m\n", "    ports: [\"5432:5432\"]\n", "db: publishes the database"),
        (
            "${POSTGRES_PASSWORD:?run scripts/stack-env.sh}",
            "${POSTGRES_PASSWORD:-aionis}",
            "POSTGRES_PASSWORD has a default",
        ),
        ("  read_only: true\n", "", "api: may write into its image"),
        ("pgvector:0.8.6-pg16", "pgvector:latest", "db: has an image that changes under its name"),
        ("    mem_limit: 256m\n", "", "migrate: has no limit of memory"),
        ("services:", "services: [", "while parsing"),
    ] {
        assert!(sound.contains(from), "{from}");
        let problems = compose_problems(&sound.replacen(from, to, 1));
        assert!(problems.iter().any(|problem| problem.contains(said)), "{said}: {problems:?}");
    }
}

#[test]
fn what_is_wrong_with_a_workflow_is_found() {
    let sound = "on: push\npermissions: {}\njobs:\n  a:\n    timeout-minutes: 5\n    steps:\n      - uses: actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683\n";
    assert_eq!(workflow_problems(sound), Vec::<String>::new());
    for (from, to, said) in [
        (
            "@11bd71901bbe5b1630ceea73d27597364c9af683",
            "@v4",
            "a uses actions/checkout@v4, which is not pinned to a commit",
        ),
        ("permissions: {}\n", "", "leaves the token all permissions"),
        ("    timeout-minutes: 5\n", "", "a has no limit of time"),
    ] {
        assert_eq!(workflow_problems(&sound.replace(from, to)), [said]);
    }
    assert!(!workflow_problems("a: [").is_empty(), "what is no YAML is found");
}

#[test]
fn what_is_wrong_with_a_dockerfile_is_found() {
    let sound = file("Dockerfile");
    for (from, to, said) in [
        ("# One image", "# syntax=docker/dockerfile:1\n# One image", "loads a frontend from a registry"),
        ("USER aionis\n", "", "runs as root"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "is not told to stop by SIGTERM"),
        (r#"CMD ["aionis", "healthcheck"]"#, "CMD true", "is not asked by its own program whether it is healthy"),
        ("VOLUME /data\n", "", "has no volume for data"),
    ] {
        assert!(sound.contains(from), "{from}");
        assert_eq!(dockerfile_problems(&sound.replacen(from, to, 1)), [said]);
    }
}
