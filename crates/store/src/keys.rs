//! What both engines share of API keys.

use aionis_core::clock::Timestamp;
use uuid::Uuid;

/// Before every key of a tenant.
pub(crate) const NOWHERE: (Timestamp, Uuid) = (Timestamp(i64::MIN), Uuid::nil());
