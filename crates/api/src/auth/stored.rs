//! API keys that are kept in the store. What the store says of a key is remembered for a short time, so that a request
//! does not cost a question to the database, and a key that is revoked by another process is refused soon after.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aionis_core::{
    canon::Digest,
    clock::Clock,
    deadline,
    error::{DomainError, ErrorKind},
    held,
    keys::{KeyRecord, KeyState, KeyText},
    ports::store::KeyStore,
};
use async_trait::async_trait;
use hashlink::LruCache;
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex as Turn, OwnedSemaphorePermit, Semaphore};

use super::{KeySource, Principal, Source, unauthorized};

/// Keys that are remembered, and keys that are remembered not to exist: at most so many of each. They are apart, so
/// that who guesses keys does not push out the ones that are used.
const REMEMBERED_MAX: usize = 10_000;
/// Longest time for which a key is remembered not to exist: it may be made in the next moment.
const UNKNOWN_TTL_MAX: Duration = Duration::from_secs(1);
/// Turns by key. Questions about one key wait for each other, and the second finds the answer of the
/// first.
const TURNS: usize = 32;
/// Questions to the store at once unless it is said.
const LOOKUPS_MAX: usize = 8;
/// Longest wait for one's turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest time for an answer of the store, the wait for one's turn included.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The keys of a store.
pub struct StoredKeys {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    ttl: Duration,
    answer_max: Duration,
    /// What is known, and until when by the monotonic clock.
    known: Mutex<LruCache<Digest, (KeyRecord, Duration)>>,
    unknown: Mutex<LruCache<Digest, Duration>>,
    turns: Vec<Turn<()>>,
    /// So that a flood of unknown keys leaves connections to those who are known.
    lookups: Arc<Semaphore>,
    turn_wait_max: Duration,
}

impl StoredKeys {
    /// Keys of `store`, each remembered for `ttl`; zero asks for every request.
    pub fn new(store: Arc<dyn KeyStore>, clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        Self {
            store,
            clock,
            ttl,
            answer_max: ANSWER_MAX,
            known: Mutex::new(LruCache::new(REMEMBERED_MAX)),
            unknown: Mutex::new(LruCache::new(REMEMBERED_MAX)),
            turns: (0..TURNS).map(|_| Turn::new(())).collect(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            turn_wait_max: TURN_WAIT_MAX,
        }
    }

    /// Asks the store about at most so many keys at once, at least about one: a part of the connections there are.
    #[must_use]
    pub fn with_lookups_max(mut self, lookups_max: usize) -> Self {
        self.lookups = Arc::new(Semaphore::new(lookups_max.clamp(1, Semaphore::MAX_PERMITS)));
        self
    }

    /// Waits for the turn of a key, then for a place among those who ask.
    async fn turn(&self, digest: &Digest) -> Result<(MutexGuardOfTurn<'_>, OwnedSemaphorePermit), DomainError> {
        let both = async {
            let turn = self.turns[usize::from(digest.0[0]) % TURNS].lock().await;
            (turn, Arc::clone(&self.lookups).acquire_owned().await)
        };
        match tokio::time::timeout(self.turn_wait_max, both).await {
            Ok((turn, Ok(lookup))) => Ok((turn, lookup)),
            Ok((_, Err(_))) => Err(DomainError::internal("the places of key look-ups were closed")),
            Err(_) => {
                metrics::counter!("aionis_admission_refused_total", "code" => "key_lookups_busy").increment(1);
                let message = "too many keys are being looked up; retry later";
                let error = DomainError::new(ErrorKind::TooManyRequests, "key_lookups_busy", message);
                Err(error.with_retry_after(Duration::from_secs(1)))
            }
        }
    }

    /// What is remembered of a key: itself, or that there is none.
    fn remembered(&self, digest: &Digest) -> Option<Option<KeyRecord>> {
        let now = self.clock.monotonic();
        if let Some((key, until)) = locked(&self.known).get(digest)
            && *until > now
        {
            return Some(Some(key.clone()));
        }
        locked(&self.unknown).get(digest).is_some_and(|until| *until > now).then_some(None)
    }

    /// Notes an answer that was asked for at a time: what happened since is not in it.
    fn remember(&self, digest: &Digest, found: Option<&KeyRecord>, asked: Duration) {
        match found {
            Some(key) => {
                locked(&self.unknown).remove(digest);
                locked(&self.known).insert(*digest, (key.clone(), asked + self.ttl));
            }
            None => {
                locked(&self.known).remove(digest);
                locked(&self.unknown).insert(*digest, asked + self.ttl.min(UNKNOWN_TTL_MAX));
            }
        }
    }

    async fn record(&self, digest: &Digest) -> Result<Option<KeyRecord>, DomainError> {
        if let Some(remembered) = self.remembered(digest) {
            return Ok(remembered);
        }
        let (_turn, lookup) = self.turn(digest).await?;
        if let Some(remembered) = self.remembered(digest) {
            return Ok(remembered);
        }
        let asked = self.clock.monotonic();
        // Its place is taken until the store is done, also when nobody waits for the answer any more.
        let asking = held::holding(Arc::new(lookup), self.store.key_by_digest(digest));
        let found = match asking.await? {
            None => None,
            // The index has compared already, in whatever time it took: that tells of digests, not of keys.
            Some((key, stored)) if bool::from(stored.0.ct_eq(&digest.0)) => Some(key),
            Some((key, _)) => return Err(DomainError::internal(format!("key {} was found by another digest", key.id))),
        };
        self.remember(digest, found.as_ref(), asked);
        Ok(found)
    }
}

type MutexGuardOfTurn<'a> = tokio::sync::MutexGuard<'a, ()>;

fn locked<T>(cache: &Mutex<T>) -> MutexGuard<'_, T> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl KeySource for StoredKeys {
    /// A key of another form is not asked for.
    fn may_know(&self, key: &str) -> bool {
        matches!(KeyText::parse(key), Ok(Some(_)))
    }

    async fn find(&self, digest: &Digest) -> Result<Option<Principal>, DomainError> {
        // The store hears of the deadline too, so that the database does not go on after it.
        let asking = deadline::within(Instant::now() + self.answer_max, self.record(digest));
        let answer = tokio::time::timeout(self.answer_max, asking).await.unwrap_or_else(|_| {
            let error = DomainError::new(
                ErrorKind::Unavailable,
                "storage_unavailable",
                "the key cannot be looked up now; retry later",
            );
            Err(error.with_retry_after(Duration::from_secs(1)).with_internal("a key was not looked up in time"))
        });
        let result = match &answer {
            Ok(Some(_)) => "known",
            Ok(None) => "unknown",
            Err(_) => "failed",
        };
        metrics::counter!("aionis_key_checks_total", "result" => result).increment(1);
        let Some(key) = answer? else { return Ok(None) };
        match key.state(self.clock.now()) {
            KeyState::Active => {}
            KeyState::Expired => return Err(unauthorized("expired_key", "the key in x-api-key has expired")),
            KeyState::Revoked => return Err(unauthorized("revoked_key", "the key in x-api-key was revoked")),
        }
        let (agent, team, role) = (key.agent_id.as_deref(), key.team_id.as_deref(), Some(key.role.as_str()));
        Principal::new(key.tenant_id.as_str(), agent, team, role, Source::ApiKey)
            .map(Some)
            .map_err(|problem| DomainError::internal(format!("the stored key {} cannot be used: {problem}", key.id)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aionis_core::{
        clock::Timestamp,
        ids::TenantId,
        keys::{NewKey, Role, Rotation},
        ports::store::StoreError,
    };
    use aionis_testkit::fixtures::{FakeClock, START};
    use uuid::Uuid;

    use super::*;

    const TTL: Duration = Duration::from_millis(5_000);

    /// A store with at most one key, which can be away, answer late or find the wrong row.
    struct Scripted {
        key: Mutex<Option<KeyRecord>>,
        digest: Digest,
        away: Mutex<Option<StoreError>>,
        asked: AtomicUsize,
        answers: Semaphore,
    }

    #[async_trait]
    impl KeyStore for Scripted {
        async fn create_key(&self, _: NewKey) -> Result<(), StoreError> {
            unreachable!("keys are only looked up")
        }

        async fn key_by_digest(&self, wanted: &Digest) -> Result<Option<(KeyRecord, Digest)>, StoreError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let _answer = self.answers.acquire().await.unwrap();
            if let Some(error) = locked(&self.away).clone() {
                return Err(error);
            }
            let key = locked(&self.key).clone().filter(|key| *wanted == self.digest || key.name.is_some());
            Ok(key.map(|key| (key, self.digest)))
        }

        async fn keys(
            &self,
            _: Option<&TenantId>,
            _: Option<&KeyRecord>,
            _: usize,
        ) -> Result<Vec<KeyRecord>, StoreError> {
            unreachable!("keys are only looked up")
        }

        async fn has_active_key(&self, _: Timestamp) -> Result<bool, StoreError> {
            unreachable!("keys are only looked up")
        }

        async fn rotate_key(&self, _: Rotation) -> Result<(KeyRecord, KeyRecord), StoreError> {
            unreachable!("keys are only looked up")
        }

        async fn revoke_key(&self, _: Uuid, _: Timestamp) -> Result<KeyRecord, StoreError> {
            unreachable!("keys are only looked up")
        }
    }

    fn key() -> KeyText {
        KeyText::from_random([1; 32])
    }

    fn record() -> KeyRecord {
        KeyRecord {
            id: Uuid::from_u128(1),
            tenant_id: TenantId::parse("acme").unwrap(),
            name: None,
            prefix: key().shown().to_owned(),
            role: Role::Reader,
            agent_id: Some("ann".to_owned()),
            team_id: None,
            created_at: Timestamp(0),
            expires_at: None,
            revoked_at: None,
            replaced_by: None,
        }
    }

    fn stored(ttl: Duration) -> (Arc<StoredKeys>, Arc<Scripted>, Arc<FakeClock>) {
        let store = Arc::new(Scripted {
            key: Mutex::new(Some(record())),
            digest: key().digest(),
            away: Mutex::new(None),
            asked: AtomicUsize::new(0),
            answers: Semaphore::new(1_000),
        });
        let clock = FakeClock::new();
        let keys = StoredKeys::new(Arc::clone(&store) as Arc<dyn KeyStore>, Arc::clone(&clock) as Arc<dyn Clock>, ttl);
        (Arc::new(keys), store, clock)
    }

    fn asked(store: &Scripted) -> usize {
        store.asked.load(Ordering::SeqCst)
    }

    /// Reason of a refusal, or the class of another failure.
    fn reason(answer: Result<Option<Principal>, DomainError>) -> String {
        let error = answer.unwrap_err();
        match error.kind {
            ErrorKind::Unauthorized => error.internal.unwrap_or_default(),
            kind => format!("{kind:?} {}", error.code),
        }
    }

    #[tokio::test]
    async fn a_revoked_key_is_refused_once_it_is_forgotten() {
        let (keys, store, clock) = stored(TTL);
        let digest = key().digest();
        let found = keys.find(&digest).await.unwrap().unwrap();
        assert_eq!(
            (found.tenant_id.as_str(), found.agent_id.as_deref(), found.role),
            ("acme", Some("ann"), Role::Reader)
        );
        locked(&store.key).as_mut().unwrap().revoked_at = Some(Timestamp(1));
        clock.advance(TTL - Duration::from_micros(1));
        assert!(keys.find(&digest).await.unwrap().is_some());
        assert_eq!(asked(&store), 1, "it was remembered");
        clock.advance(Duration::from_micros(1));
        assert_eq!(reason(keys.find(&digest).await), "revoked_key");
    }

    #[tokio::test]
    async fn an_expired_key_is_refused_also_while_it_is_remembered() {
        let (keys, store, clock) = stored(TTL);
        locked(&store.key).as_mut().unwrap().expires_at = Some(Timestamp(START.0 + 2));
        assert!(keys.find(&key().digest()).await.unwrap().is_some());
        clock.advance(Duration::from_micros(2));
        assert_eq!(reason(keys.find(&key().digest()).await), "expired_key");
        assert_eq!(asked(&store), 1);
    }

    #[tokio::test]
    async fn a_new_key_works_after_a_second_although_it_was_unknown() {
        let (keys, store, clock) = stored(TTL);
        let made = locked(&store.key).take();
        for _ in 0..50 {
            assert_eq!(keys.find(&key().digest()).await.unwrap(), None);
        }
        assert_eq!(asked(&store), 1, "asking again costs the database nothing");
        *locked(&store.key) = made;
        clock.advance(UNKNOWN_TTL_MAX);
        assert!(keys.find(&key().digest()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_a_failure_and_nothing_is_remembered_of_it() {
        let (keys, store, _) = stored(TTL);
        for (error, wanted) in [
            (StoreError::Unavailable("gone".to_owned()), "Unavailable storage_unavailable"),
            (StoreError::Driver("odd".to_owned()), "Internal internal_error"),
        ] {
            *locked(&store.away) = Some(error);
            assert_eq!(reason(keys.find(&key().digest()).await), wanted);
        }
        *locked(&store.away) = None;
        assert!(keys.find(&key().digest()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_a_failure_in_the_end() {
        let (keys, store, _) = stored(TTL);
        let mut keys = Arc::into_inner(keys).unwrap();
        keys.answer_max = Duration::from_millis(1);
        let all = store.answers.acquire_many(1_000).await.unwrap();
        assert_eq!(reason(keys.find(&key().digest()).await), "Unavailable storage_unavailable");
        drop(all);
        keys.answer_max = ANSWER_MAX;
        assert!(keys.find(&key().digest()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn many_requests_at_once_ask_once() {
        let (keys, store, _) = stored(TTL);
        let all = store.answers.acquire_many(1_000).await.unwrap();
        let asking: Vec<_> = (0..100)
            .map(|_| {
                let keys = Arc::clone(&keys);
                tokio::spawn(async move { keys.find(&key().digest()).await })
            })
            .collect();
        while asked(&store) == 0 {
            tokio::task::yield_now().await;
        }
        drop(all);
        for asking in asking {
            assert!(asking.await.unwrap().unwrap().is_some());
        }
        assert_eq!(asked(&store), 1);
        let (keys, store, _) = stored(Duration::ZERO);
        for _ in 0..3 {
            keys.find(&key().digest()).await.unwrap();
        }
        assert_eq!(asked(&store), 3, "nothing is remembered when nothing may be");
    }

    #[tokio::test]
    async fn a_flood_of_unknown_keys_takes_its_share_of_connections_and_no_more() {
        let (keys, store, _) = stored(TTL);
        let mut keys = Arc::into_inner(keys).unwrap().with_lookups_max(2);
        keys.turn_wait_max = Duration::from_millis(1);
        let keys = Arc::new(keys);
        let all = store.answers.acquire_many(1_000).await.unwrap();
        let guesses = (0..64_u8).map(|n| {
            // Of as many turns as there are.
            let mut guess = aionis_core::canon::sha256([n]);
            guess.0[0] = n;
            let keys = Arc::clone(&keys);
            tokio::spawn(async move { keys.find(&guess).await })
        });
        let guesses: Vec<_> = guesses.collect();
        let (mut refused, mut waiting) = (0, Vec::new());
        for (at, guess) in guesses.into_iter().enumerate() {
            // The first two ask the store, which does not answer.
            if at < 2 {
                waiting.push(guess);
            } else {
                assert_eq!(reason(guess.await.unwrap()), "TooManyRequests key_lookups_busy");
                refused += 1;
            }
        }
        assert_eq!((refused, asked(&store)), (62, 2));
        drop(all);
        for guess in waiting {
            assert_eq!(guess.await.unwrap().unwrap(), None);
        }
        assert!(keys.find(&key().digest()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_row_that_is_not_the_one_asked_for_lets_nobody_in() {
        let (keys, store, _) = stored(TTL);
        locked(&store.key).as_mut().unwrap().name = Some("any digest finds it".to_owned());
        let other = KeyText::from_random([2; 32]).digest();
        assert_eq!(reason(keys.find(&other).await), "Internal internal_error");
    }

    #[tokio::test]
    async fn what_is_remembered_has_a_limit_and_guesses_push_out_no_key_in_use() {
        let (keys, store, _) = stored(TTL);
        keys.find(&key().digest()).await.unwrap().unwrap();
        for n in 0..REMEMBERED_MAX + 10 {
            let guess = aionis_core::canon::sha256(n.to_string());
            assert_eq!(keys.find(&guess).await.unwrap(), None);
        }
        assert_eq!((locked(&keys.known).len(), locked(&keys.unknown).len()), (1, REMEMBERED_MAX));
        let before = asked(&store);
        keys.find(&key().digest()).await.unwrap().unwrap();
        assert_eq!(asked(&store), before);
    }

    #[test]
    fn only_keys_of_its_form_are_asked_for() {
        let (keys, ..) = stored(TTL);
        assert!(keys.may_know(key().secret()));
        for other in ["ann", "", "aio_", &key().secret()[..70]] {
            assert!(!keys.may_know(other), "{other:?}");
        }
    }
}
