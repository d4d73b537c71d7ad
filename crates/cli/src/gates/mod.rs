//! Gates at work: they read a deployment and leave evidence. A gate changes nothing it judges.

pub(crate) mod partition_readiness;
