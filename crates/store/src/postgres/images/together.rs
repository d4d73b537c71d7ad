//! Searches of one image that are done together.
//!
//! A search among many codes reads the signs of all, which takes the processor longer than comparing them. Questions that
//! are asked while another one is being answered wait for each other, then share one reading: the more are asked, the less
//! each costs.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use aionis_core::ports::store::{DenseQuery, StoreError};
use aionis_image::{Candidates, Coding};
use tokio::sync::oneshot;

/// Codes from which on a search takes long enough to be worth waiting for, if they are of the kind that is read together.
const TOGETHER_FROM: u64 = 4_096;
/// Questions that are answered together at most: with more the codes read for each are few already, and the first would wait
/// for the last.
const AT_ONCE: usize = 8;
/// Questions that have to wait for another task to begin beside one that is at work.
const WAITING_FOR_ANOTHER: usize = AT_ONCE / 2;

/// A question and who waits for its candidates.
struct Waiting {
    query: Arc<DenseQuery>,
    reply: oneshot::Sender<Candidates>,
}

/// Questions that wait, and how many tasks work them off.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    tasks: usize,
}

/// The questions to an image.
pub(super) struct Together {
    queue: Arc<Mutex<Queue>>,
    tasks_max: usize,
    /// From how many codes on questions wait for each other.
    from: u64,
}

impl Together {
    /// Of an image with vectors of so many dimensions.
    pub(super) fn new(dim: usize) -> Self {
        // Half of the processors: the others have what comes before and after a search to do.
        let processors = thread::available_parallelism().map_or(1, Into::into);
        let from = match Coding::of(dim) {
            Coding::Bits { .. } => TOGETHER_FROM,
            Coding::Integers { .. } => u64::MAX,
        };
        Self { queue: Arc::default(), tasks_max: (processors / 2).max(1), from }
    }

    /// What a question finds among so many codes by a search that answers several.
    pub(super) async fn ask(
        &self,
        query: &Arc<DenseQuery>,
        codes: u64,
        search: impl Fn(&[&DenseQuery]) -> Vec<Candidates> + Send + 'static,
    ) -> Result<Candidates, StoreError> {
        let failed = || StoreError::Driver("a search was cut short".to_owned());
        if codes < self.from {
            return search(&[query.as_ref()]).pop().ok_or_else(failed);
        }
        let (reply, answer) = oneshot::channel();
        let begins = {
            let mut queue = lock(&self.queue);
            queue.waiting.push_back(Waiting { query: Arc::clone(query), reply });
            let begins = queue.tasks == 0 || queue.waiting.len() >= WAITING_FOR_ANOTHER && queue.tasks < self.tasks_max;
            queue.tasks += usize::from(begins);
            begins
        };
        if begins {
            // A task of its own: a caller that goes away must not take the others' questions with it.
            tokio::spawn(work_off(Task { queue: Arc::clone(&self.queue), is_over: false }, search));
        }
        answer.await.map_err(|_| failed())
    }
}

async fn work_off(mut task: Task, search: impl Fn(&[&DenseQuery]) -> Vec<Candidates> + Send + 'static) {
    loop {
        // Who is about to ask may join.
        tokio::task::yield_now().await;
        let asked = task.next();
        if asked.is_empty() {
            return;
        }
        let found = search(&asked.iter().map(|waiting| waiting.query.as_ref()).collect::<Vec<_>>());
        for (waiting, candidates) in asked.into_iter().zip(found) {
            // The caller may have stopped waiting; there is nobody to tell then.
            let _ = waiting.reply.send(candidates);
        }
    }
}

/// A task that works questions off.
struct Task {
    queue: Arc<Mutex<Queue>>,
    is_over: bool,
}

impl Task {
    /// The next questions. If there are none the task is over.
    fn next(&mut self) -> Vec<Waiting> {
        let mut queue = lock(&self.queue);
        // The answer to a request that was given up is not waited for.
        queue.waiting.retain(|waiting| !waiting.reply.is_closed());
        let count = queue.waiting.len().min(AT_ONCE);
        if count == 0 {
            queue.tasks -= 1;
            self.is_over = true;
        }
        queue.waiting.drain(..count).collect()
    }
}

impl Drop for Task {
    /// A task that was cut short counts no more, and if it was the last one those who wait are told that nobody will answer.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut queue = lock(&self.queue);
        queue.tasks -= 1;
        if queue.tasks == 0 {
            queue.waiting.clear();
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use aionis_core::{
        ids::{NodeId, ScopeKey, TenantId},
        model::Viewer,
        ports::store::{NodeFilter, SeedRules},
    };
    use futures_util::future::{join_all, poll_immediate};

    use super::*;

    /// Dimensions whose codes are read together.
    const DIM: usize = 1_536;

    /// A question that is told by its limit.
    fn question(limit: usize) -> Arc<DenseQuery> {
        let viewer = Viewer { agent: None, team: None };
        let filter = NodeFilter { viewer, rules: SeedRules::Everything };
        let scope = ScopeKey::new(&TenantId::parse("acme").unwrap(), "notes").unwrap();
        Arc::new(DenseQuery { scope, filter, vector: vec![1.0; DIM], limit, scored: limit, exact: false })
    }

    /// A search that finds as many as are asked for, and the numbers of questions it was asked at once.
    fn counted() -> (Arc<Mutex<Vec<usize>>>, impl Fn(&[&DenseQuery]) -> Vec<Candidates> + Clone + Send + 'static) {
        let at_once = Arc::new(Mutex::new(Vec::new()));
        let counts = Arc::clone(&at_once);
        let search = move |asked: &[&DenseQuery]| {
            counts.lock().unwrap().push(asked.len());
            asked.iter().map(|query| candidates(query.limit)).collect()
        };
        (at_once, search)
    }

    fn candidates(count: usize) -> Candidates {
        Candidates { unscored: vec![(NodeId(uuid::Uuid::nil()), 0); count], estimated: Vec::new() }
    }

    #[tokio::test]
    async fn who_asks_meanwhile_shares_a_search() {
        let (at_once, search) = counted();
        let together = Together::new(DIM);
        let questions: Vec<_> = (1..=AT_ONCE + 3).map(question).collect();
        let found = join_all(questions.iter().map(|of| together.ask(of, TOGETHER_FROM, search.clone()))).await;
        for (query, found) in questions.iter().zip(found) {
            assert_eq!(found.unwrap().unscored.len(), query.limit, "each gets its own answer");
        }
        assert_eq!(*at_once.lock().unwrap(), [AT_ONCE, 3]);
        together.ask(&question(1), TOGETHER_FROM, search).await.unwrap();
        assert_eq!(*at_once.lock().unwrap(), [AT_ONCE, 3, 1], "a new task begins when the last one is over");
    }

    #[tokio::test]
    async fn few_codes_and_codes_of_the_other_kind_are_searched_at_once() {
        for (dim, codes) in [(DIM, TOGETHER_FROM - 1), (384, 1_000_000)] {
            let (at_once, search) = counted();
            let together = Together::new(dim);
            let questions: Vec<_> = (1..=3).map(question).collect();
            for of in &questions {
                let found = poll_immediate(std::pin::pin!(together.ask(of, codes, search.clone()))).await;
                assert_eq!(found.expect("nothing is waited for").unwrap().unscored.len(), of.limit);
            }
            assert_eq!(*at_once.lock().unwrap(), [1, 1, 1], "{dim}");
        }
    }

    #[tokio::test]
    async fn who_gives_up_is_not_searched_for_and_takes_nobody_along() {
        let (at_once, search) = counted();
        let together = Together::new(DIM);
        let (first, second, third) = (question(1), question(2), question(3));
        let mut given_up = Box::pin(together.ask(&first, TOGETHER_FROM, search.clone()));
        let mut others = [&second, &third].map(|of| Box::pin(together.ask(of, TOGETHER_FROM, search.clone())));
        assert!(poll_immediate(&mut given_up).await.is_none());
        for other in &mut others {
            assert!(poll_immediate(other).await.is_none());
        }
        drop(given_up);
        for (other, limit) in others.into_iter().zip([2, 3]) {
            assert_eq!(other.await.unwrap().unscored.len(), limit);
        }
        assert_eq!(*at_once.lock().unwrap(), [2]);
    }

    #[tokio::test]
    async fn a_search_that_fails_is_told_to_all_who_wait_and_the_next_one_works() {
        let together = Together::new(DIM);
        let questions: Vec<_> = (1..=AT_ONCE + 3).map(question).collect();
        let fails = |_: &[&DenseQuery]| -> Vec<Candidates> { panic!("this search fails, as it should") };
        for found in join_all(questions.iter().map(|of| together.ask(of, TOGETHER_FROM, fails))).await {
            assert!(matches!(found, Err(StoreError::Driver(_))), "{found:?}");
        }
        let (at_once, search) = counted();
        assert_eq!(together.ask(&question(4), TOGETHER_FROM, search).await.unwrap().unscored.len(), 4);
        assert_eq!(*at_once.lock().unwrap(), [1]);
    }

    #[tokio::test]
    async fn another_task_begins_when_many_wait_and_there_are_processors() {
        for (tasks_max, few, many) in [(1, 1, 1), (2, 1, 2), (16, 1, 1 + AT_ONCE - WAITING_FOR_ANOTHER + 1)] {
            let (_, search) = counted();
            let together = Together { tasks_max, ..Together::new(DIM) };
            let questions: Vec<_> = (1..=AT_ONCE).map(question).collect();
            let mut asked: Vec<_> =
                questions.iter().map(|of| Box::pin(together.ask(of, TOGETHER_FROM, search.clone()))).collect();
            for (number, asked) in (1..).zip(&mut asked) {
                assert!(poll_fn(|context| std::task::Poll::Ready(asked.as_mut().poll(context).is_pending())).await);
                let expected = if number < WAITING_FOR_ANOTHER { few } else { many };
                assert!(lock(&together.queue).tasks <= expected, "{tasks_max}: {number}");
            }
            assert_eq!(lock(&together.queue).tasks, many, "{tasks_max}");
            join_all(asked).await;
            while lock(&together.queue).tasks > 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}
