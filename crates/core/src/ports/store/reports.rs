use async_trait::async_trait;

use super::StoreError;
use crate::{
    clock::Timestamp,
    ids::ScopeKey,
    jobs::counts::{QualityCounts, RuleSignalPage, ScopeActivity},
    model::RuleState,
};

/// Which rules are looked at, and since when what was said of them counts.
#[derive(Clone, Debug)]
pub struct RuleSignalQuery {
    /// Scope.
    pub scope: ScopeKey,
    /// States of the rules.
    pub states: &'static [RuleState],
    /// Beginning of the window.
    pub since: Timestamp,
    /// Most rules.
    pub limit: usize,
}

/// Counting for reports: numbers and ids of whole scopes, never a text.
#[async_trait]
pub trait ReportStore: Send + Sync {
    /// What happened in scopes since a time, and what is in them; in the order asked.
    ///
    /// # Errors
    /// A failure of storage.
    async fn activity(&self, scopes: &[ScopeKey], since: Timestamp) -> Result<Vec<ScopeActivity>, StoreError>;

    /// Rules with what was said about them, those last changed first, ties by id.
    ///
    /// # Errors
    /// A failure of storage.
    async fn rule_signals(&self, query: &RuleSignalQuery) -> Result<RuleSignalPage, StoreError>;

    /// What the quality of a scope is judged by; what was used, written or merged since `since` is fresh.
    ///
    /// # Errors
    /// A failure of storage.
    async fn quality(&self, scope: &ScopeKey, since: Timestamp) -> Result<QualityCounts, StoreError>;
}
