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

/// Variables of a service, with what comes by `<<`.
fn variables(service: &Yaml) -> Vec<&str> {
    let environment = of(service, "environment");
    let maps = [environment, &environment["<<"]].into_iter().filter_map(Yaml::as_hash);
    maps.flat_map(|map| map.keys()).filter_map(Yaml::as_str).collect()
}

/// Variables of the embedding, which whoever derives vectors needs.
const EMBEDDING: [&str; 12] = [
    "EMBEDDING_PROVIDER",
    "EMBEDDING_DIM",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_EMBEDDING_MODEL",
    "MINIMAX_API_KEY",
    "MINIMAX_GROUP_ID",
    "MINIMAX_EMBED_MODEL",
    "MINIMAX_EMBED_ENDPOINT",
    "EMBED_HTTP_TIMEOUT_MS",
    "EMBED_HTTP_MAX_RETRIES",
    "EMBED_HTTP_MAX_CONCURRENCY",
];
/// Variables of whoever answers requests.
const SERVING: [&str; 8] = [
    "MEMORY_AUTH_MODE",
    "MEMORY_API_KEYS_JSON",
    "MEMORY_JWT_HS256_SECRET",
    "MEMORY_JWT_ISSUER",
    "MEMORY_JWT_AUDIENCE",
    "ADMIN_TOKEN",
    "AIONIS_TRUSTED_PROXIES",
    "CORS_ALLOW_ORIGINS",
];

/// Whether the image may be somebody's on GitHub although nobody named an owner: names there have no two hyphens in a row.
fn may_be_a_strangers(image: &str) -> bool {
    let owner = image.strip_prefix("ghcr.io/").and_then(|rest| rest.split_once('/')).map_or("", |(owner, _)| owner);
    let default = owner.split_once(":-").map_or(owner, |(_, default)| default.trim_end_matches('}'));
    !default.contains("--")
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
            let image = of(service, "image").as_str().unwrap_or_default();
            need(!may_be_a_strangers(image), "has an image by default that may be a stranger's");
            let kept = texts(of(service, "volumes")).iter().any(|volume| volume.ends_with(":/data"));
            let own = texts(of(service, "tmpfs")).iter().any(|tmpfs| tmpfs.starts_with("/data:uid=10001,"));
            need(kept || own, "cannot write below /data");
            let passed = variables(service);
            let serves = texts(&service["command"]).first() == Some(&"serve");
            let wanted = EMBEDDING.iter().chain(SERVING.iter().filter(|_| serves));
            for name in wanted.filter(|name| !passed.contains(name)) {
                need(false, &format!("does not get {name}"));
            }
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
    assert_eq!(needs, ["tag", "ci", "gate"]);
    for (job, workflow) in [("ci", "ci"), ("gate", "core-production-gate")] {
        let uses = publish["jobs"][job]["uses"].as_str();
        assert_eq!(uses, Some(format!("./.github/workflows/{workflow}.yml").as_str()));
        assert!(!yaml(&format!(".github/workflows/{workflow}.yml"))["on"]["workflow_call"].is_badvalue());
    }
    none(&publish_problems(&file(".github/workflows/docker-publish.yml"), &file(GATE)));
}

const GATE: &str = ".github/workflows/core-production-gate.yml";

/// Commands and expressions of a job, without comments.
fn steps_of(job: &Yaml) -> String {
    let steps = job["steps"].as_vec().into_iter().flatten();
    let lines = steps.filter_map(|step| step["run"].as_str()).flat_map(str::lines);
    lines.filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// What is wrong with how the image comes from the gate to the registry.
fn publish_problems(publish: &str, gate: &str) -> Vec<String> {
    let (Ok(publish), Ok(gate)) = (parse(publish), parse(gate)) else { return vec!["is no YAML".to_owned()] };
    let mut problems = Vec::new();
    let mut need = |holds: bool, what: &str| {
        if !holds {
            problems.push(what.to_owned());
        }
    };
    let (gated, job) = (steps_of(&gate["jobs"]["gate"]), &publish["jobs"]["publish"]);
    let published = steps_of(job);
    need(
        gated.contains("--sbom=true") && gated.contains("--provenance=mode=max"),
        "the image says nothing of its origin",
    );
    need(gated.contains("type=oci,dest=image.tar"), "the gated image is not kept");
    need(gated.contains("oci-archive:image.tar \"docker-daemon:"), "another image is gated");
    let kept = |job: &Yaml| {
        let steps = job["steps"].as_vec().into_iter().flatten();
        steps.filter_map(|step| step["with"]["name"].as_str()).any(|name| name == "gated-image")
    };
    need(kept(&gate["jobs"]["gate"]) && kept(job), "the gated image does not reach the job that publishes");
    need(publish["jobs"]["gate"]["with"]["keep_image"].as_bool() == Some(true), "the gate keeps no image");
    need(!published.contains("build"), "the image is built anew");
    need(published.contains("copy --all --preserve-digests oci-archive:image.tar"), "another image is published");
    let pushed = "${{ github.event_name == 'push' && github.ref_name || inputs.tag }}";
    for name in ["tag", "publish"] {
        need(publish["jobs"][name]["env"]["TAG"].as_str() == Some(pushed), "a run by hand publishes what nobody named");
    }
    let latest = published.lines().find(|line| line.contains("latest)")).unwrap_or_default();
    need(latest.contains("push\\ *)"), "a run by hand moves latest");
    need(steps_of(&publish["jobs"]["tag"]).contains("Cargo.toml"), "the tag is not compared with the version");
    problems
}

#[test]
fn an_image_that_is_not_the_gated_one_is_found() {
    let (publish, gate) = (file(".github/workflows/docker-publish.yml"), file(GATE));
    for (of_gate, from, to, said) in [
        (true, "--sbom=true", "", "the image says nothing of its origin"),
        (true, "          name: gated-image\n", "", "the gated image does not reach the job that publishes"),
        (
            true,
            "oci-archive:image.tar \"docker-daemon:",
            "oci-archive:other.tar \"docker-daemon:",
            "another image is gated",
        ),
        (false, "skopeo inspect --raw oci-archive", "docker buildx build . #", "the image is built anew"),
        (false, "--all --preserve-digests ", "", "another image is published"),
        (false, "      keep_image: true\n", "", "the gate keeps no image"),
        (
            false,
            "github.event_name == 'push' && github.ref_name",
            "github.ref_type == 'tag' && github.ref_name",
            "a run by hand publishes what nobody named",
        ),
        (false, "push\\ *) tags", "*) tags", "a run by hand moves latest"),
        (false, "Cargo.toml | head", "README.md | head", "the tag is not compared with the version"),
    ] {
        let changed = if of_gate { &gate } else { &publish };
        assert!(changed.contains(from), "{from}");
        let changed = changed.replace(from, to);
        let problems = if of_gate { publish_problems(&publish, &changed) } else { publish_problems(&changed, &gate) };
        assert!(problems.iter().any(|problem| problem == said), "{said}: {problems:?}");
    }
}

/// What is wrong with which scope is judged: it has to be one that was filled.
fn judged_scope_problem(gate: &str, seed: &str) -> Option<String> {
    let Ok(gate) = parse(gate) else { return Some("is no YAML".to_owned()) };
    let commands = steps_of(&gate["jobs"]["gate"]);
    let Some(call) = commands.lines().find(|line| line.contains("scripts/stack-gate.sh")) else {
        return Some("no gate is run".to_owned());
    };
    let words: Vec<&str> = call.split_whitespace().collect();
    let value = |flag: &str| words.windows(2).find(|pair| pair[0] == flag).map_or("default", |pair| pair[1]);
    let filled = |pattern: String| Regex::new(&pattern).unwrap().is_match(seed);
    let scope = value("--scope");
    if !filled(format!(r#""scope": "{scope}", "actor""#)) {
        return Some(format!("the scope {scope} is judged, which nothing was written to"));
    }
    let tenant = value("--tenant-id");
    let is_filled = filled(format!(r#"(?m)^TENANTS = \[(?:.*, )?"{tenant}""#));
    (!is_filled).then(|| format!("the tenant {tenant} is judged, which nothing was written to"))
}

#[test]
fn ops_25_the_gate_judges_a_scope_that_was_filled() {
    let (gate, seed) = (file(GATE), file("scripts/seed-tenants.py"));
    assert_eq!(judged_scope_problem(&gate, &seed), None);
    let empty = judged_scope_problem(&gate.replace(" --scope team", ""), &seed).unwrap();
    assert!(empty.contains("the scope default is judged"), "{empty}");
    let empty = judged_scope_problem(&gate, &seed.replace("TENANTS = [\"default\", ", "TENANTS = [")).unwrap();
    assert!(empty.contains("the tenant default is judged"), "{empty}");
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

/// What a compose file names counts, set or not: a profile that names it too would be ignored without a word.
#[test]
fn no_profile_names_what_the_compose_files_name() {
    let compose = yaml("docker-compose.yml");
    let named: Vec<&str> = ["api", "worker"].iter().flat_map(|name| variables(&compose["services"][*name])).collect();
    assert!(named.len() > 20, "{named:?}");
    let of_profile = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        lines.map(|(name, _)| name.to_owned()).filter(|name| named.contains(&name.as_str())).collect()
    };
    assert_eq!(of_profile("# x\nOUTBOX_BATCH_SIZE=1\nOPENAI_BASE_URL=y"), ["OPENAI_BASE_URL"]);
    // The worker's pool has a variable of its own there, as it needs fewer connections.
    for name in ["default", "prod", "benchmark"] {
        let mut ignored = of_profile(&file(&format!("deploy/profiles/{name}.env")));
        ignored.retain(|name| name != "DB_POOL_MAX");
        assert_eq!(ignored, Vec::<String>::new(), "{name}");
    }
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
        ("STACK_IMAGE_OWNER:-local--build", "STACK_IMAGE_OWNER:-local", "api: has an image by default"),
        ("/data:uid=10001,gid=10001,mode=0700", "/data", "worker: cannot write below /data"),
        ("  OPENAI_BASE_URL:\n", "", "worker: does not get OPENAI_BASE_URL"),
        ("      MEMORY_JWT_ISSUER:\n", "", "api: does not get MEMORY_JWT_ISSUER"),
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
