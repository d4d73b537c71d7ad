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

use crate::gauges::searched_for;

/// Codes from which on a search takes long enough to be worth waiting for, if they are of the kind that is read together.
const TOGETHER_FROM: u64 = 4_096;
/// Questions that are answered together at most: more cost hardly less each, the first would wait for the last, and each
/// takes room for what it knows of every code.
const AT_ONCE: usize = 6;
/// Questions that wait for each task that is at work before another one begins.
const WAITING_FOR_ANOTHER: usize = AT_ONCE / 2;
/// Tasks at most: the room they take grows with them.
const TASKS_MAX: usize = 4;

/// What finds the candidates of several questions.
pub(super) trait Search: Fn(&[&DenseQuery]) -> Vec<Candidates> + Send + 'static {}

impl<S: Fn(&[&DenseQuery]) -> Vec<Candidates> + Send + 'static> Search for S {}

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
        let tasks_max = thread::available_parallelism().map_or(1, Into::into).min(TASKS_MAX);
        let from = match Coding::of(dim) {
            Coding::Bits { .. } => TOGETHER_FROM,
            Coding::Integers { .. } => u64::MAX,
        };
        Self { queue: Arc::default(), tasks_max, from }
    }

    /// What a question finds among so many codes by a search that may answer others too.
    pub(super) async fn ask(
        &self,
        query: &Arc<DenseQuery>,
        codes: u64,
        search: impl Search,
    ) -> Result<Candidates, StoreError> {
        let failed = || StoreError::Driver("a search was cut short".to_owned());
        if codes < self.from {
            return search(&[query.as_ref()]).pop().ok_or_else(failed);
        }
        let answer = {
            let mut queue = lock(&self.queue);
            let begins = queue.tasks < self.tasks_max && queue.waiting.len() >= WAITING_FOR_ANOTHER * queue.tasks;
            queue.tasks += usize::from(begins);
            let task = || Task { queue: Arc::clone(&self.queue), is_over: false };
            if queue.waiting.is_empty() && begins {
                // Nobody else asks: no need for a task of its own as long as it stays so.
                let mut task = task();
                drop(queue);
                searched_for(1);
                let found = search(&[query.as_ref()]).pop();
                if !task.is_over_if_nobody_waits() {
                    tokio::spawn(work_off(task, search));
                }
                return found.ok_or_else(failed);
            }
            let (reply, answer) = oneshot::channel();
            queue.waiting.push_back(Waiting { query: Arc::clone(query), reply });
            if begins {
                // A task of its own: a caller that goes away must not take the others' questions with it.
                tokio::spawn(work_off(task(), search));
            }
            answer
        };
        answer.await.map_err(|_| failed())
    }
}

async fn work_off(mut task: Task, search: impl Search) {
    loop {
        // Who is about to ask may join.
        tokio::task::yield_now().await;
        let asked = task.next();
        if asked.is_empty() {
            return;
        }
        searched_for(asked.len());
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

    fn is_over_if_nobody_waits(&mut self) -> bool {
        let mut queue = lock(&self.queue);
        if queue.waiting.is_empty() {
            queue.tasks -= 1;
            self.is_over = true;
        }
        self.is_over
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
    use std::{pin::Pin, sync::mpsc};

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

    fn candidates(count: usize) -> Candidates {
        Candidates { unscored: vec![(NodeId(uuid::Uuid::nil()), 0); count], estimated: Vec::new() }
    }

    /// A search that finds as many as are asked for. It tells how many questions it is asked at once, and goes on when it
    /// may, one permit for each search.
    fn stepped() -> (mpsc::Receiver<usize>, mpsc::Sender<()>, impl Search + Clone) {
        let ((began, begun), (permit, permits)) = (mpsc::channel(), mpsc::channel());
        let permits = Arc::new(Mutex::new(permits));
        let search = move |asked: &[&DenseQuery]| {
            began.send(asked.len()).unwrap();
            permits.lock().unwrap().recv().expect("a search that may not go on fails");
            asked.iter().map(|query| candidates(query.limit)).collect()
        };
        (begun, permit, search)
    }

    type Asked<'a> = Vec<Pin<Box<dyn Future<Output = Result<Candidates, StoreError>> + Send + 'a>>>;

    /// Asks one question whose search is held up, and while it is some more, which wait.
    async fn asked<'a>(
        together: &Arc<Together>,
        of: &'a [Arc<DenseQuery>],
        search: &(impl Search + Clone + Sync),
        begun: &mpsc::Receiver<usize>,
    ) -> (tokio::task::JoinHandle<Result<Candidates, StoreError>>, Asked<'a>) {
        let (first, of_first, by) = (question(100), Arc::clone(together), search.clone());
        let first = tokio::spawn(async move { of_first.ask(&first, TOGETHER_FROM, by).await });
        assert_eq!(begun.recv().unwrap(), 1, "nothing was waited for");
        let mut asked: Asked = Vec::new();
        for of in of {
            let (of_this, by) = (Arc::clone(together), search.clone());
            let mut this = Box::pin(async move { of_this.ask(of, TOGETHER_FROM, by).await });
            assert!(poll_immediate(&mut this).await.is_none());
            asked.push(this);
        }
        (first, asked)
    }

    /// Waits until no task is left.
    async fn quiet(together: &Together) {
        while lock(&together.queue).tasks > 0 {
            tokio::task::yield_now().await;
        }
    }

    fn with_tasks(tasks_max: usize) -> Arc<Together> {
        Arc::new(Together { tasks_max, ..Together::new(DIM) })
    }

    fn questions(count: usize) -> Vec<Arc<DenseQuery>> {
        (1..=count).map(question).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_asks_while_a_search_is_on_shares_the_next_one() {
        let (begun, permit, search) = stepped();
        let (together, questions) = (with_tasks(1), questions(AT_ONCE + 3));
        let (first, asked) = asked(&together, &questions, &search, &begun).await;
        (0..3).for_each(|_| permit.send(()).unwrap());
        assert_eq!(first.await.unwrap().unwrap().unscored.len(), 100);
        for (query, found) in questions.iter().zip(join_all(asked).await) {
            assert_eq!(found.unwrap().unscored.len(), query.limit, "each gets its own answer");
        }
        quiet(&together).await;
        assert_eq!(begun.try_iter().collect::<Vec<_>>(), [AT_ONCE, 3]);
        permit.send(()).unwrap();
        let alone = question(7);
        let found = poll_immediate(std::pin::pin!(together.ask(&alone, TOGETHER_FROM, search))).await;
        assert_eq!(found.expect("nothing is waited for").unwrap().unscored.len(), 7);
    }

    #[tokio::test]
    async fn few_codes_and_codes_of_the_other_kind_are_searched_at_once() {
        for (dim, codes) in [(DIM, TOGETHER_FROM - 1), (384, 1_000_000)] {
            let (begun, permit, search) = stepped();
            // As if a search were on.
            let together = Together::new(dim);
            lock(&together.queue).tasks = TASKS_MAX;
            for of in questions(3) {
                permit.send(()).unwrap();
                let found = poll_immediate(std::pin::pin!(together.ask(&of, codes, search.clone()))).await;
                assert_eq!(found.expect("nothing is waited for").unwrap().unscored.len(), of.limit);
            }
            assert_eq!(begun.try_iter().collect::<Vec<_>>(), [1, 1, 1], "{dim}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_gives_up_is_not_searched_for_and_takes_nobody_along() {
        let (begun, permit, search) = stepped();
        let (together, questions) = (with_tasks(1), questions(3));
        let (first, mut asked) = asked(&together, &questions, &search, &begun).await;
        drop(asked.remove(0));
        (0..2).for_each(|_| permit.send(()).unwrap());
        first.await.unwrap().unwrap();
        for (found, limit) in join_all(asked).await.into_iter().zip([2, 3]) {
            assert_eq!(found.unwrap().unscored.len(), limit);
        }
        assert_eq!(begun.try_iter().collect::<Vec<_>>(), [2]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_search_that_fails_is_told_to_all_who_wait_and_the_next_one_works() {
        // The first fails by itself, or what it lets on does.
        for permits in [0, 1] {
            let (begun, permit, search) = stepped();
            let (together, questions) = (with_tasks(1), questions(AT_ONCE + 3));
            let (first, asked) = asked(&together, &questions, &search, &begun).await;
            (0..permits).for_each(|_| permit.send(()).unwrap());
            drop(permit);
            assert_eq!(first.await.is_ok(), permits > 0);
            for found in join_all(asked).await {
                assert!(matches!(found, Err(StoreError::Driver(_))), "{found:?}");
            }
            assert_eq!(lock(&together.queue).tasks, 0);
            let (_begun, permit, search) = stepped();
            permit.send(()).unwrap();
            assert_eq!(together.ask(&question(4), TOGETHER_FROM, search).await.unwrap().unscored.len(), 4);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn another_task_begins_when_many_wait_and_there_are_processors() {
        for (tasks_max, most) in [(1, 1), (2, 2), (4, 2)] {
            let (begun, permit, search) = stepped();
            let (together, questions) = (with_tasks(tasks_max), questions(WAITING_FOR_ANOTHER));
            let (first, few) = asked(&together, &questions, &search, &begun).await;
            assert_eq!(lock(&together.queue).tasks, 1, "those who wait are few");
            let one_more = question(50);
            let mut last = Box::pin(together.ask(&one_more, TOGETHER_FROM, search.clone()));
            assert!(poll_immediate(&mut last).await.is_none());
            assert_eq!(lock(&together.queue).tasks, most, "{tasks_max}");
            (0..3).for_each(|_| permit.send(()).unwrap());
            first.await.unwrap().unwrap();
            join_all(few).await;
            last.await.unwrap();
            quiet(&together).await;
        }
    }
}
