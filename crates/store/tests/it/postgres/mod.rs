//! What only the PostgreSQL engine has: tenants apart by row-level security, many processes, plans, a server that goes away.

mod connections;
mod consistency;
mod consolidation;
mod deadline;
mod growth;
mod isolation;
mod keys;
mod lifecycle;
mod migrations;
mod partition;
mod plans;
mod processes;
mod purge;
mod reading;
mod recall_quality;
mod reports;
mod topics;
mod vectors;
