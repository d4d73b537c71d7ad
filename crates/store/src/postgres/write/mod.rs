//! Applying a group of prepared writes: lock the scope, read, plan, store.

mod narrow;
mod rows;
mod store;
mod stored;

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use aionis_core::{
    clock::Timestamp,
    ids::ScopeKey,
    ports::store::StoreError,
    write::{PartPlan, PreparedPart, PreparedWrite, WriteOutcome, plan_part},
};

pub(crate) use self::rows::terms_text;
use self::{
    narrow::{Images, narrowings},
    rows::Rows,
    stored::Stored,
};
use super::{
    Shared,
    error::{driver, inconsistent, is_transient},
    forget::narrow,
    session::{For, begin, literal},
};

/// How often a transaction that lost against another one, or its connection, is run again.
const TRIES: u32 = 4;

type Outcomes = Vec<Result<WriteOutcome, StoreError>>;

/// What a transaction came to.
enum Came {
    /// Its end.
    To(Outcomes),
    /// It was rolled back: images of these scopes are needed first, which are not read while it holds locks.
    Without(Vec<ScopeKey>),
}

/// Applies writes that do not depend on each other, in order, in one transaction.
pub(crate) async fn apply_group(shared: &Shared, writes: &[PreparedWrite]) -> Outcomes {
    let mut tried = 0;
    let mut images = Images::new();
    loop {
        tried += 1;
        match attempt(shared, writes, &mut images).await {
            Ok(Some(outcomes)) => return outcomes,
            // It was only found what it needs.
            Ok(None) => tried -= 1,
            Err(error) if is_transient(&error) && tried < TRIES => {
                tracing::debug!(error = %error, tried, "a write transaction is run again");
                tokio::time::sleep(Duration::from_millis(20 << tried)).await;
            }
            Err(error) => {
                tracing::warn!(error = %error, writes = writes.len(), "a write transaction failed");
                return writes.iter().map(|_| Err(error.clone())).collect();
            }
        }
    }
}

/// Runs the transaction; nothing is returned, and nothing stored, when it needs images, which are there for the next attempt.
async fn attempt(
    shared: &Shared,
    writes: &[PreparedWrite],
    images: &mut Images,
) -> Result<Option<Outcomes>, StoreError> {
    match shared.patience.bounded(transaction(shared, writes, images)).await? {
        Came::To(outcomes) => Ok(Some(outcomes)),
        Came::Without(scopes) => {
            shared.patience.bounded(images.read(shared, scopes)).await?;
            Ok(None)
        }
    }
}

/// One scope's share of a group.
struct Share<'a> {
    /// Position in the group, the part, and whether it is the write's own scope.
    items: Vec<(usize, &'a PreparedPart, bool)>,
}

async fn transaction(shared: &Shared, writes: &[PreparedWrite], images: &Images) -> Result<Came, StoreError> {
    let mut shares: BTreeMap<&ScopeKey, Share<'_>> = BTreeMap::new();
    for (at, write) in writes.iter().enumerate() {
        for (n, part) in write.parts.iter().enumerate() {
            shares.entry(&part.scope).or_insert_with(|| Share { items: Vec::new() }).items.push((at, part, n == 0));
        }
    }
    let now = shared.clock.now();
    let tenant = writes[0].parts[0].scope.tenant();
    let lock = lock_sql(shares.keys().copied(), now);
    let mut tx = begin(&shared.pool, For::Tenant(tenant), shared.options.statement_timeout, &lock).await?;
    let mut outcomes: Vec<Option<Result<WriteOutcome, StoreError>>> = writes.iter().map(|_| None).collect();
    // Plans of every write, per part in the order of its parts.
    let mut plans: Vec<Vec<Option<PartPlan>>> = writes.iter().map(|w| w.parts.iter().map(|_| None).collect()).collect();
    let mut stored: BTreeMap<&ScopeKey, Stored> = BTreeMap::new();
    for (scope, share) in &shares {
        let items: Vec<_> = share.items.iter().map(|(at, part, _)| (&writes[*at], *part)).collect();
        stored.insert(scope, Stored::read(&mut tx, scope.as_str(), &shared.space.name, &items).await?);
    }
    // In the order of the writes and of their parts, so that the first mistake is the one that is told.
    for (at, write) in writes.iter().enumerate() {
        for (n, part) in write.parts.iter().enumerate() {
            let Some(held) = stored.get_mut(&part.scope) else { continue };
            match plan_one(write, part, held, n == 0, now) {
                Ok(Planned::New(plan)) => {
                    plans[at][n] = Some(*plan);
                    continue;
                }
                Ok(Planned::Repeated(earlier)) => outcomes[at] = Some(Ok(earlier)),
                Err(error @ StoreError::Rejected(_)) => outcomes[at] = Some(Err(error)),
                Err(error) => return Err(error),
            }
            break;
        }
    }
    for (at, write) in writes.iter().enumerate() {
        if outcomes[at].is_none() {
            let of_parts: Vec<PartPlan> = plans[at].iter_mut().filter_map(Option::take).collect();
            outcomes[at] = Some(Ok(WriteOutcome::of(write, &of_parts)));
            plans[at] = of_parts.into_iter().map(Some).collect();
        } else {
            // Refused or answered from before: nothing of it is stored in any scope.
            plans[at].iter_mut().for_each(|plan| *plan = None);
        }
    }
    let narrowings = narrowings(writes, &plans, &stored);
    let missing = images.missing(&narrowings);
    if !missing.is_empty() {
        tx.rollback().await.map_err(driver)?;
        return Ok(Came::Without(missing));
    }
    let mut changed = Vec::new();
    let mut has_work = false;
    for (scope, share) in &shares {
        let Some(held) = stored.get(scope) else { continue };
        let mut rows = Rows::default();
        for (at, part, primary) in &share.items {
            let write = &writes[*at];
            let n = write.parts.iter().position(|own| own.scope == part.scope).unwrap_or(0);
            let (Some(plan), Some(Ok(outcome))) = (&plans[*at][n], &outcomes[*at]) else { continue };
            rows.add(write, part, plan, |id| held.nodes.get(&id))?;
            if *primary {
                rows.remember(write, outcome)?;
            }
        }
        if rows.is_empty() {
            continue;
        }
        if rows.head_hash.is_empty() {
            (rows.head_seq, rows.head_hash) = (super::rows::signed(held.head.0), held.head.1.0.to_vec());
        }
        has_work |= rows.has_work();
        let change_no = held.change_no + 1;
        rows.store(&mut tx, scope.as_str(), (&shared.space.name, shared.space.dim), change_no, now).await?;
        changed.push(((*scope).clone(), change_no));
    }
    for narrowing in &narrowings {
        if let Some(image) = images.of(&narrowing.asked.scope)
            && let Some(change_no) = narrow(&mut tx, shared, (narrowing, image), now).await?
        {
            changed.push((narrowing.asked.scope.clone(), change_no));
        }
    }
    if changed.is_empty() {
        // Nothing was stored: the scope row that the lock may have made goes too.
        tx.rollback().await.map_err(driver)?;
    } else {
        tx.commit().await.map_err(driver)?;
        for (scope, change_no) in changed {
            shared.images.note(&scope, change_no);
        }
        shared.wake.committed(has_work);
    }
    let unplanned = || Err(StoreError::Driver("a write was left without an outcome".to_owned()));
    Ok(Came::To(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unplanned)).collect()))
}

enum Planned {
    /// The answer given before to the same request.
    Repeated(WriteOutcome),
    New(Box<PartPlan>),
}

fn plan_one(
    write: &PreparedWrite,
    part: &PreparedPart,
    held: &mut Stored,
    primary: bool,
    now: Timestamp,
) -> Result<Planned, StoreError> {
    if primary
        && let Some(idempotency) = &write.idempotency
        && let Some((asked_before, outcome)) = held.request(&idempotency.key)
        && idempotency.answers(*asked_before, write.request_digest)?
    {
        let mut earlier: WriteOutcome = serde_json::from_str(outcome)
            .map_err(|e| inconsistent("memory_requests", "outcome", &idempotency.key, e.to_string()))?;
        earlier.replayed = true;
        return Ok(Planned::Repeated(earlier));
    }
    let state = held.state(write, part, primary);
    let plan = plan_part(write, part, &state, now)?;
    if let Some(commit) = &plan.commit {
        held.head = (commit.header.seq, commit.hash);
    }
    Ok(Planned::New(Box::new(plan)))
}

/// Makes the rows of the scopes where there are none, and locks them in one order, so that groups over several scopes
/// cannot wait for each other in a circle.
pub(crate) fn lock_sql<'a>(scopes: impl Iterator<Item = &'a ScopeKey>, now: Timestamp) -> String {
    let mut sql = String::new();
    for scope in scopes {
        let key = literal(scope.as_str());
        // Writing to a text cannot fail.
        let _ = write!(
            sql,
            "INSERT INTO memory_scopes (scope_key, head_seq, head_hash, node_count, edge_count, vector_count, change_no, \
             created_at, updated_at) VALUES ({key}, 0, decode(repeat('00', 32), 'hex'), 0, 0, 0, 0, {now}, {now}) \
             ON CONFLICT (scope_key) DO NOTHING; SELECT 1 FROM memory_scopes WHERE scope_key = {key} FOR UPDATE; ",
            now = now.0
        );
    }
    sql.trim_end_matches("; ").to_owned()
}
