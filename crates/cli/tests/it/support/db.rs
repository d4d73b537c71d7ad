//! The database from outside the program.

use std::{collections::HashMap, path::Path};

use aionis_store::sqlite::DATABASE_FILE;
use rusqlite::{Connection, OpenFlags};

pub(crate) fn read_only(data: &Path) -> Connection {
    Connection::open_with_flags(data.join(DATABASE_FILE), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

pub(crate) fn writable(data: &Path) -> Connection {
    Connection::open_with_flags(data.join(DATABASE_FILE), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
}

pub(crate) fn count(connection: &Connection, sql: &str) -> u64 {
    connection.query_row(sql, [], |row| number(row, 0)).unwrap()
}

/// A commit as stored.
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) hash: String,
    pub(crate) changes: String,
}

/// A node as stored.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) commit_seq: u64,
}

/// Commits by number; panics unless they are numbered 1, 2, 3 … up to the scope's head.
pub(crate) fn commits(connection: &Connection, scope: &str) -> HashMap<u64, Commit> {
    let mut statement = connection
        .prepare("SELECT seq, id, lower(hex(hash)), changes FROM memory_commits WHERE scope_key = ?1")
        .unwrap();
    let commits: HashMap<u64, Commit> = statement
        .query_map([scope], |row| {
            Ok((number(row, 0)?, Commit { id: id(row, 1)?, hash: row.get(2)?, changes: row.get(3)? }))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let head: u64 = connection
        .query_row("SELECT head_seq FROM memory_scopes WHERE scope_key = ?1", [scope], |row| number(row, 0))
        .unwrap();
    assert_eq!(commits.len() as u64, head, "one commit per number");
    assert!((1..=head).all(|seq| commits.contains_key(&seq)), "no number is missing");
    commits
}

/// Nodes by client id; those that jobs made have none.
pub(crate) fn nodes(connection: &Connection, scope: &str) -> HashMap<String, Node> {
    let sql = "SELECT client_id, id, text_summary, commit_seq FROM memory_nodes WHERE scope_key = ?1 AND client_id IS NOT NULL";
    let mut statement = connection.prepare(sql).unwrap();
    statement
        .query_map([scope], |row| {
            Ok((row.get(0)?, Node { id: id(row, 1)?, text: row.get(2)?, commit_seq: number(row, 3)? }))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// An id as answers show it.
fn id(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
    let bytes: [u8; 16] = row.get(column)?;
    Ok(uuid::Uuid::from_bytes(bytes).to_string())
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    Ok(number.try_into().expect("counts are not negative"))
}
