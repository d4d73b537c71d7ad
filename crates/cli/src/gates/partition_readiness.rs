//! Whether the partitioned layout is ready for its cutover, as a step of the release gate.

use std::{path::PathBuf, sync::Arc};

use aionis_store::Deployment;

use super::artifacts::Artifacts;
use crate::failure::Failure;

/// What the release gate asks for.
#[derive(Clone, Debug)]
pub(crate) struct ReadinessAsk {
    /// Tenant of the scope that is looked at.
    pub(crate) tenant_id: String,
    /// The scope that is looked at.
    pub(crate) scope: String,
    /// Whether recalls are compared between the layouts.
    pub(crate) read_shadow_check: bool,
    /// Hits that are compared per recall.
    pub(crate) read_shadow_limit: u16,
    /// Smallest part of hits the layouts have in common.
    pub(crate) read_shadow_min_overlap: f64,
}

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    /// Why it is not ready, by name; empty when it is.
    pub(crate) reasons: Vec<String>,
    /// What could not be measured, by name.
    pub(crate) inconclusive: Vec<String>,
    /// The summary of the readiness gate, where there is one.
    pub(crate) summary_json: Option<PathBuf>,
}

/// Looks whether the layout is ready. This version has no partitioned layout, so that nothing is, and it says so.
///
/// # Errors
/// Always: the layout is not built in.
pub(crate) async fn look(
    _store: &Arc<dyn Deployment>,
    _ask: &ReadinessAsk,
    _artifacts: &Artifacts,
) -> Result<Readiness, Failure> {
    Err(Failure::new("the partitioned layout is not built into this version"))
}
