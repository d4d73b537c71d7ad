//! `aionis keys`: API keys that are kept in the store.

use std::{sync::Arc, time::Duration};

use aionis_api::{Principal, Role, Source};
use aionis_core::{
    clock::{Clock, SystemClock, Timestamp},
    ids::TenantId,
    keys::{KEY_RANDOM_BYTES, KeyRecord, KeyState, KeyText, NAME_MAX_BYTES, NewKey, Rotation},
};
use aionis_store::{Deployment, StoreOptions, sqlite::DATABASE_FILE};
use clap::{Args, Subcommand};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{StorageSettings, env_file::EnvFileArgs},
    wiring,
};

/// Flags of `aionis keys`.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and show it, this once.
    Create(Box<CreateArgs>),
    /// List keys; what is shown of them is no secret.
    List(Box<ListArgs>),
    /// Make a key in the place of another one, which is accepted a while longer.
    Rotate(Box<RotateArgs>),
    /// Revoke a key for good.
    Revoke(Box<RevokeArgs>),
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
    /// The only tenant the key reaches.
    #[arg(long)]
    tenant: String,
    /// What it may do: reader, writer or admin.
    #[arg(long, value_parser = role)]
    role: Role,
    /// The agent it stands for.
    #[arg(long)]
    agent: Option<String>,
    /// The team it stands for.
    #[arg(long)]
    team: Option<String>,
    /// What people call it.
    #[arg(long)]
    name: Option<String>,
    /// How long it is accepted, as 90d, 12h, 30m or 45s; without it for ever.
    #[arg(long, value_parser = lifetime)]
    expires_in: Option<Duration>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
    /// Only keys of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Expired and revoked keys too.
    #[arg(long)]
    all: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RotateArgs {
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
    /// Id of the key to replace.
    id: Uuid,
    /// For how long the old key is still accepted, as 24h, 30m or 0s.
    #[arg(long, value_parser = duration, default_value = "24h")]
    grace: Duration,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
    /// Id of the key.
    id: Uuid,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Keys read at once.
const PAGE: usize = 500;
/// Longest time a key may be given, in seconds: ten years.
const DURATION_MAX_S: u64 = 3_650 * 86_400;

pub(crate) async fn run(args: KeysArgs) -> Result<Verdict, Failure> {
    match args.action {
        Action::Create(args) => create(&args).await,
        Action::List(args) => list(&args).await,
        Action::Rotate(args) => rotate(&args).await,
        Action::Revoke(args) => revoke(&args).await,
    }?;
    Ok(Verdict::Positive)
}

async fn create(args: &CreateArgs) -> Result<(), Failure> {
    let now = SystemClock.now();
    let key = fresh_key()?;
    let record = new_record(args, &key, now)?;
    let store = open(&args.storage).await?;
    let created = store.create_key(NewKey { record: record.clone(), digest: key.digest() }).await;
    store.close().await;
    created?;
    show_new(&key, &record, None, args.json, now)
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let tenant = args.tenant.as_deref().map(TenantId::parse).transpose();
    let tenant = tenant.map_err(|e| Failure::new(format!("--tenant: {}", e.message)))?;
    let store = open(&args.storage).await?;
    let found = all_keys(&*store, tenant.as_ref()).await;
    store.close().await;
    let now = SystemClock.now();
    let found = found?;
    let shown: Vec<&KeyRecord> = found.iter().filter(|key| args.all || key.state(now) == KeyState::Active).collect();
    if args.json {
        let keys: Vec<Value> = shown.iter().map(|key| as_json(key, now)).collect();
        return output::json(&json!({ "keys": keys }));
    }
    shown.iter().for_each(|key| output::line(as_line(key, now)));
    let hidden = found.len() - shown.len();
    let more = if hidden > 0 { format!(", {hidden} expired or revoked (--all)") } else { String::new() };
    output::line(format!("{} key(s){more}", shown.len()));
    Ok(())
}

async fn all_keys(store: &dyn Deployment, tenant: Option<&TenantId>) -> Result<Vec<KeyRecord>, Failure> {
    let mut found: Vec<KeyRecord> = Vec::new();
    loop {
        let page = store.keys(tenant, found.last(), PAGE).await?;
        let is_last = page.len() < PAGE;
        found.extend(page);
        if is_last {
            return Ok(found);
        }
    }
}

async fn rotate(args: &RotateArgs) -> Result<(), Failure> {
    let now = SystemClock.now();
    let key = fresh_key()?;
    let rotation = Rotation {
        old: args.id,
        new: Uuid::new_v4(),
        prefix: key.shown().to_owned(),
        digest: key.digest(),
        grace: args.grace,
        now,
    };
    let store = open(&args.storage).await?;
    let rotated = store.rotate_key(rotation).await;
    store.close().await;
    let (new, old) = rotated?;
    show_new(&key, &new, Some(&old), args.json, now)
}

async fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    let now = SystemClock.now();
    let store = open(&args.storage).await?;
    let revoked = store.revoke_key(args.id, now).await;
    store.close().await;
    let key = revoked?;
    if args.json {
        return output::json(&as_json(&key, now));
    }
    output::line(format!("revoked {}", as_line(&key, now)));
    Ok(())
}

/// Opens the store; a reason why that fails with the embedded engine is told with the way out.
async fn open(storage: &StorageSettings) -> Result<Arc<dyn Deployment>, Failure> {
    let opened = wiring::open_existing(storage).await;
    let StoreOptions::Embedded(options) = wiring::store_options(storage) else { return opened };
    opened.map_err(|failure| {
        let way_out = if options.data_dir.join(DATABASE_FILE).exists() {
            "keys of the embedded engine are managed while its server is stopped"
        } else {
            "`aionis migrate` makes one before the first start"
        };
        Failure::new(format!("{failure}; {way_out}"))
    })
}

/// A key that nobody has seen.
fn fresh_key() -> Result<KeyText, Failure> {
    let mut random = [0; KEY_RANDOM_BYTES];
    let filled = SystemRandom::new().fill(&mut random);
    filled.map_err(|_| Failure::new("the operating system gives no random bytes; no key was made"))?;
    Ok(KeyText::from_random(random))
}

/// What is stored of a key, from the flags. A blank agent or team would be none, and so another key than was meant: blanks
/// are refused.
fn new_record(args: &CreateArgs, key: &KeyText, now: Timestamp) -> Result<KeyRecord, Failure> {
    for (flag, value) in [("--agent", &args.agent), ("--team", &args.team), ("--name", &args.name)] {
        if value.as_deref().is_some_and(|value| value.trim().is_empty()) {
            return Err(Failure::new(format!("{flag} is blank; leave it out or give it a value")));
        }
    }
    let name = args.name.as_deref().map(|name| name.trim().to_owned());
    if name.as_ref().is_some_and(|name| name.len() > NAME_MAX_BYTES || name.chars().any(char::is_control)) {
        return Err(Failure::new(format!(
            "--name has to be at most {NAME_MAX_BYTES} bytes without control characters"
        )));
    }
    // Read as every other credential is, so that nothing is stored that is refused later.
    let (agent, team) = (args.agent.as_deref(), args.team.as_deref());
    let principal =
        Principal::new(&args.tenant, agent, team, Some(args.role.as_str()), Source::ApiKey).map_err(|e| {
            let flags = [("tenant_id", "--tenant"), ("agent_id", "--agent"), ("team_id", "--team")];
            Failure::new(flags.iter().fold(e.to_owned(), |text, (member, flag)| text.replace(member, flag)))
        })?;
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    Ok(KeyRecord {
        id: Uuid::new_v4(),
        tenant_id: principal.tenant_id,
        name,
        prefix: key.shown().to_owned(),
        role: principal.role,
        agent_id: principal.agent_id,
        team_id: principal.team_id,
        created_at: now,
        expires_at: args.expires_in.map(|time| Timestamp(now.0.saturating_add(micros(time)))),
        revoked_at: None,
        replaced_by: None,
    })
}

/// Shows a key, which nobody can do again.
fn show_new(
    key: &KeyText,
    record: &KeyRecord,
    replaced: Option<&KeyRecord>,
    json: bool,
    now: Timestamp,
) -> Result<(), Failure> {
    if json {
        let mut shown = as_json(record, now);
        shown["key"] = json!(key.secret());
        if let Some(old) = replaced {
            shown["replaces"] = as_json(old, now);
        }
        return output::json(&shown);
    }
    output::line(key.secret());
    output::line(as_line(record, now));
    if let Some(old) = replaced {
        output::line(format!("in the place of {}", as_line(old, now)));
    }
    output::line("the key in the first line is shown only now: only its SHA-256 is stored");
    Ok(())
}

fn as_json(key: &KeyRecord, now: Timestamp) -> Value {
    json!({
        "id": key.id,
        "tenant_id": key.tenant_id.as_str(),
        "name": key.name,
        "prefix": key.prefix,
        "role": key.role.as_str(),
        "agent_id": key.agent_id,
        "team_id": key.team_id,
        "created_at": key.created_at.to_iso(),
        "expires_at": key.expires_at.map(Timestamp::to_iso),
        "revoked_at": key.revoked_at.map(Timestamp::to_iso),
        "replaced_by": key.replaced_by,
        "state": key.state(now).as_str(),
    })
}

fn as_line(key: &KeyRecord, now: Timestamp) -> String {
    let mut line = format!(
        "{} {}… {} tenant={} role={}",
        key.id,
        key.prefix,
        key.state(now).as_str(),
        key.tenant_id.as_str(),
        key.role.as_str()
    );
    for (label, value) in [("agent", &key.agent_id), ("team", &key.team_id)] {
        if let Some(value) = value {
            line += &format!(" {label}={value}");
        }
    }
    if let Some(name) = &key.name {
        line += &format!(" name={name:?}");
    }
    line += &format!(" created={}", key.created_at.to_iso());
    line += &key.expires_at.map_or_else(String::new, |at| format!(" expires={}", at.to_iso()));
    line + &key.revoked_at.map_or_else(String::new, |at| format!(" revoked={}", at.to_iso()))
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| format!("must be {}", Role::NAMES))
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() { Err("must be more than nothing, for example 90d".to_owned()) } else { Ok(time) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number with s, m, h or d, at most 3650d, for example 90d".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let unit_s: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - 1];
    // A sign is no digit, although a number may be read with one.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit_s).filter(|seconds| *seconds <= DURATION_MAX_S).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_limit() {
        for (text, seconds) in [("0s", 0), ("45s", 45), ("30m", 1_800), ("24h", 86_400), ("90d", 7_776_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("3650d"), Ok(Duration::from_secs(DURATION_MAX_S)));
        for wrong in ["", "d", "90", "-1d", "+1d", "1.5d", "1w", "90 d", "3651d", "99999999999999999999s", "1é"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(lifetime("0d").is_err());
    }
}
