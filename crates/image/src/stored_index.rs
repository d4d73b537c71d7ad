//! The index of a scope's vectors as it is stored.

use super::router::StoredRouter;

/// An index as it is stored.
pub struct StoredIndex {
    /// Its centroids.
    pub router: StoredRouter,
    /// Row number and list of every vector that was there when it was built, ordered by row number.
    pub members: Vec<(i64, u16)>,
    /// Recall@10 in its test.
    pub recall: f64,
    /// When its vectors were read, in microseconds: those stored since are not in it.
    pub built_at: i64,
}

impl StoredIndex {
    /// The list of a vector that has not changed since the index was built.
    pub fn list_of(&self, vector_no: i64, created_at: i64) -> Option<u16> {
        if created_at > self.built_at {
            return None;
        }
        self.members.binary_search_by_key(&vector_no, |member| member.0).ok().map(|at| self.members[at].1)
    }
}
