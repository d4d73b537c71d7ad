//! Which profile a recall gets: by tenant and endpoint, by tenant, by endpoint, else the global one (runtime
//! specification 4.2).

use hashbrown::HashMap;
use serde_json::{Map, Value};

use super::Profile;
use crate::ids::TenantId;

/// The endpoints a policy tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecallEndpoint {
    /// By vector.
    Recall,
    /// By text.
    RecallText,
}

impl RecallEndpoint {
    /// Its name in policies, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recall => "recall",
            Self::RecallText => "recall_text",
        }
    }
}

/// What decided on a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileSource {
    /// `MEMORY_RECALL_PROFILE`.
    GlobalDefault,
    /// `endpoint` of the policy.
    EndpointOverride,
    /// `tenant_default` of the policy.
    TenantDefault,
    /// `tenant_endpoint` of the policy.
    TenantEndpointOverride,
}

impl ProfileSource {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GlobalDefault => "global_default",
            Self::EndpointOverride => "endpoint_override",
            Self::TenantDefault => "tenant_default",
            Self::TenantEndpointOverride => "tenant_endpoint_override",
        }
    }
}

/// A profile and what decided on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedProfile {
    /// The profile.
    pub profile: Profile,
    /// What decided.
    pub source: ProfileSource,
}

/// Profiles by endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ByEndpoint {
    recall: Option<Profile>,
    recall_text: Option<Profile>,
}

impl ByEndpoint {
    const fn of(self, endpoint: RecallEndpoint) -> Option<Profile> {
        match endpoint {
            RecallEndpoint::Recall => self.recall,
            RecallEndpoint::RecallText => self.recall_text,
        }
    }
}

/// Which profile a recall gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfilePolicy {
    global: Profile,
    endpoint: ByEndpoint,
    tenant_default: HashMap<TenantId, Profile>,
    tenant_endpoint: HashMap<TenantId, ByEndpoint>,
}

/// What is wrong with a policy: where, and what would be right. One line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

/// Longest piece of a policy that a message repeats, in bytes.
const SHOWN_MAX: usize = 80;

impl ProfilePolicy {
    /// The same profile for every recall.
    pub fn new(global: Profile) -> Self {
        Self { global, ..Self::default() }
    }

    /// Reads a policy over the global profile; blank means `{}`.
    ///
    /// # Errors
    /// The first thing that is wrong: what is no JSON, no object, no known member, endpoint or profile, or no tenant.
    pub fn parse(global: Profile, json: &str) -> Result<Self, PolicyError> {
        let mut policy = Self::new(global);
        if json.trim().is_empty() {
            return Ok(policy);
        }
        let value: Value =
            serde_json::from_str(json).map_err(|e| PolicyError(format!("is not valid JSON: {e}; send one object")))?;
        for (name, section) in object(&value, "")? {
            match name.as_str() {
                "endpoint" => policy.endpoint = by_endpoint(section, name)?,
                "tenant_default" => {
                    for (tenant, profile) in object(section, name)? {
                        let path = format!("{name}.{}", shown(tenant));
                        let profile = read_profile(profile, &path)?;
                        insert(&mut policy.tenant_default, tenant, profile, &path)?;
                    }
                }
                "tenant_endpoint" => {
                    for (tenant, profiles) in object(section, name)? {
                        let path = format!("{name}.{}", shown(tenant));
                        let profiles = by_endpoint(profiles, &path)?;
                        insert(&mut policy.tenant_endpoint, tenant, profiles, &path)?;
                    }
                }
                _ => return Err(unknown("", name, "endpoint, tenant_default or tenant_endpoint")),
            }
        }
        Ok(policy)
    }

    /// The profile of a recall.
    pub fn resolve(&self, tenant: &str, endpoint: RecallEndpoint) -> ResolvedProfile {
        // Tenants of scopes are checked, so that one that is none has no entry.
        let tenant = TenantId::parse(tenant).ok();
        let own = |tenant: &TenantId| self.tenant_endpoint.get(tenant)?.of(endpoint);
        let found = [
            (tenant.as_ref().and_then(own), ProfileSource::TenantEndpointOverride),
            (tenant.as_ref().and_then(|t| self.tenant_default.get(t).copied()), ProfileSource::TenantDefault),
            (self.endpoint.of(endpoint), ProfileSource::EndpointOverride),
        ];
        let global = ResolvedProfile { profile: self.global, source: ProfileSource::GlobalDefault };
        found
            .into_iter()
            .find_map(|(profile, source)| Some(ResolvedProfile { profile: profile?, source }))
            .unwrap_or(global)
    }
}

fn shown(text: &str) -> String {
    // As in JSON, so that a line stays a line.
    let quoted = Value::from(crate::ids::clip(text, SHOWN_MAX)).to_string();
    quoted.trim_matches('"').to_owned()
}

fn unknown(path: &str, name: &str, allowed: &str) -> PolicyError {
    let dot = if path.is_empty() { "" } else { "." };
    PolicyError(format!("{path}{dot}{} is unknown; use {allowed}", shown(name)))
}

fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, PolicyError> {
    value.as_object().ok_or_else(|| {
        let what = if path.is_empty() { "must".to_owned() } else { format!("{path} must") };
        PolicyError(format!("{what} be an object, got {}", shown(&value.to_string())))
    })
}

fn read_profile(value: &Value, path: &str) -> Result<Profile, PolicyError> {
    value.as_str().and_then(Profile::parse).ok_or_else(|| {
        let given = value.as_str().map_or_else(|| shown(&value.to_string()), shown);
        PolicyError(format!("{path} must be {}, got {given}", Profile::NAMES))
    })
}

fn by_endpoint(value: &Value, path: &str) -> Result<ByEndpoint, PolicyError> {
    let mut profiles = ByEndpoint::default();
    for (name, profile) in object(value, path)? {
        let profile = |name: &str| read_profile(profile, &format!("{path}.{name}")).map(Some);
        match name.as_str() {
            "recall" => profiles.recall = profile(name)?,
            "recall_text" => profiles.recall_text = profile(name)?,
            _ => return Err(unknown(path, name, "recall or recall_text")),
        }
    }
    Ok(profiles)
}

fn insert<T>(into: &mut HashMap<TenantId, T>, tenant: &str, value: T, path: &str) -> Result<(), PolicyError> {
    let tenant = TenantId::parse(tenant).map_err(|_| {
        PolicyError(format!("{path}: the tenant must match ^[a-zA-Z0-9][a-zA-Z0-9._-]{{0,63}}$ and not be blank"))
    })?;
    match into.insert(tenant, value) {
        None => Ok(()),
        Some(_) => Err(PolicyError(format!("{path}: the tenant is named twice; keep one"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{
        "endpoint": { "recall": "legacy" },
        "tenant_default": { " acme ": "quality_first" },
        "tenant_endpoint": { "acme": { "recall": "lean" }, "umbrella": { "recall_text": "legacy" } }
    }"#;

    #[test]
    fn the_narrowest_entry_decides() {
        let policy = ProfilePolicy::parse(Profile::StrictEdges, POLICY).unwrap();
        for (tenant, endpoint, profile, source) in [
            ("acme", RecallEndpoint::Recall, Profile::Lean, "tenant_endpoint_override"),
            ("acme", RecallEndpoint::RecallText, Profile::QualityFirst, "tenant_default"),
            ("umbrella", RecallEndpoint::Recall, Profile::Legacy, "endpoint_override"),
            ("umbrella", RecallEndpoint::RecallText, Profile::Legacy, "tenant_endpoint_override"),
            ("other", RecallEndpoint::Recall, Profile::Legacy, "endpoint_override"),
            ("other", RecallEndpoint::RecallText, Profile::StrictEdges, "global_default"),
            ("Acme", RecallEndpoint::RecallText, Profile::StrictEdges, "global_default"),
        ] {
            let found = policy.resolve(tenant, endpoint);
            assert_eq!((found.profile, found.source.as_str()), (profile, source), "{tenant} {endpoint:?}");
        }
    }

    #[test]
    fn nothing_said_is_the_global_profile() {
        for blank in ["", "  ", "{}", r#"{"endpoint":{},"tenant_default":{},"tenant_endpoint":{"a":{}}}"#] {
            let policy = ProfilePolicy::parse(Profile::Legacy, blank).unwrap();
            let found = policy.resolve("a", RecallEndpoint::Recall);
            assert_eq!((found.profile, found.source), (Profile::Legacy, ProfileSource::GlobalDefault));
        }
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        for (json, wanted) in [
            ("{", &["not valid JSON"][..]),
            ("[]", &["must be an object", "[]"]),
            (r#"{"endpoints":{}}"#, &["endpoints is unknown", "endpoint, tenant_default or tenant_endpoint"]),
            (r#"{"endpoint":"legacy"}"#, &["endpoint must be an object", "legacy"]),
            (r#"{"endpoint":{"write":"legacy"}}"#, &["endpoint.write is unknown", "recall or recall_text"]),
            (r#"{"endpoint":{"recall":"fast"}}"#, &["endpoint.recall must be", Profile::NAMES, "fast"]),
            (r#"{"endpoint":{"recall":null}}"#, &["endpoint.recall must be", "null"]),
            (r#"{"tenant_default":[]}"#, &["tenant_default must be an object"]),
            (r#"{"tenant_default":{"acme":7}}"#, &["tenant_default.acme must be", "7"]),
            (r#"{"tenant_default":{" ":"lean"}}"#, &["tenant_default. :", "blank"]),
            (r#"{"tenant_default":{"a/b\n":"lean"}}"#, &["tenant_default.a/b\\n:", "match"]),
            (r#"{"tenant_default":{"a":"lean"," a":"lean"}}"#, &["tenant_default.", "twice"]),
            (r#"{"tenant_endpoint":{"acme":"lean"}}"#, &["tenant_endpoint.acme must be an object"]),
            (r#"{"tenant_endpoint":{"acme":{"text":"lean"}}}"#, &["tenant_endpoint.acme.text is unknown"]),
            (r#"{"tenant_endpoint":{"acme":{"recall":"x"}}}"#, &["tenant_endpoint.acme.recall must be", "got x"]),
        ] {
            let said = ProfilePolicy::parse(Profile::Legacy, json).unwrap_err().to_string();
            assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{json}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
