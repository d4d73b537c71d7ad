//! Writes that let fewer see a node: what was made of it is found by the edges an image knows.

use std::{collections::BTreeMap, sync::Arc};

use aionis_core::{
    forget::Narrowing,
    ids::ScopeKey,
    ports::store::StoreError,
    write::{PartPlan, PreparedWrite},
};

use super::{super::Shared, stored::Stored};
use crate::postgres::images::{Entry, Freshness};

/// Images of scopes, read before the lock.
pub(super) struct Images(BTreeMap<ScopeKey, Arc<Entry>>);

impl Images {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn of(&self, scope: &ScopeKey) -> Option<&Entry> {
        self.0.get(scope).map(Arc::as_ref)
    }

    /// Scopes whose image is needed and not there.
    pub(super) fn missing(&self, narrowings: &[Narrowing]) -> Vec<ScopeKey> {
        let scopes = narrowings.iter().map(|narrowing| &narrowing.asked.scope);
        scopes.filter(|scope| !self.0.contains_key(*scope)).cloned().collect()
    }

    pub(super) async fn read(&mut self, shared: &Shared, scopes: Vec<ScopeKey>) -> Result<(), StoreError> {
        for scope in scopes {
            let image = shared.images.get(shared, &scope, Freshness::Now).await?;
            self.0.insert(scope, image);
        }
        Ok(())
    }
}

/// What the writes that will be stored let fewer see.
pub(super) fn narrowings(
    writes: &[PreparedWrite],
    plans: &[Vec<Option<PartPlan>>],
    stored: &BTreeMap<&ScopeKey, Stored>,
) -> Vec<Narrowing> {
    let mut found = Vec::new();
    for (write, plans) in writes.iter().zip(plans) {
        for (part, plan) in write.parts.iter().zip(plans) {
            let Some(held) = stored.get(&part.scope) else { continue };
            if plan.as_ref().is_some_and(|plan| plan.commit.is_some()) {
                found.extend(Narrowing::of(write, part, |id| held.nodes.get(&id).map(|held| &held.stored)));
            }
        }
    }
    found
}
