//! What only the PostgreSQL engine has: tenants apart by row-level security, many processes, plans, a server that goes away.

mod isolation;
mod migrations;
mod plans;
mod processes;
mod vectors;
