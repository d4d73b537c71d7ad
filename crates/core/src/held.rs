//! What a request holds while it is worked on, such as its place at a gate, for work that outlives the request.
//!
//! It travels with the polling of a future, as the deadline does ([`crate::deadline`]). Whoever hands work to another
//! thread or task takes a share of it along ([`share`]) and drops it when the work is done: a client that goes away
//! takes back what it asked, but not the work that has been queued or begun, and that is what places are counted for.

use std::{
    any::Any,
    cell::RefCell,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
};

/// A share of what a request holds; given back when the last share is dropped.
pub type Held = Arc<dyn Any + Send + Sync>;

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// Puts something in place, and what was there before back when it is dropped.
struct Placed(Option<Held>);

impl Placed {
    fn new(held: &Held) -> Self {
        Self(HELD.replace(Some(Arc::clone(held))))
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        HELD.set(self.0.take());
    }
}

/// Runs a future that holds something. A future within that holds something else replaces it for its own work.
pub async fn holding<T>(held: Held, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let _placed = Placed::new(&held);
        work.as_mut().poll(context)
    })
    .await
}

/// A share for work that may outlive the request; none where nothing is held, as in the work of the process itself.
pub fn share() -> Option<Held> {
    HELD.with_borrow(Clone::clone)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn what_is_held_is_there_inside_and_a_share_outlives_it() {
        let held: Held = Arc::new(7_u8);
        let watched = Arc::downgrade(&held);
        let mut context = Context::from_waker(Waker::noop());
        let mut work = Box::pin(holding(held, async { share() }));
        let Poll::Ready(shared) = work.as_mut().poll(&mut context) else { panic!("it waits for nothing") };
        assert!(share().is_none(), "and gone outside");
        drop(work);
        assert_eq!(shared.as_ref().and_then(|shared| shared.downcast_ref::<u8>()), Some(&7));
        assert!(watched.upgrade().is_some());
        drop(shared);
        assert!(watched.upgrade().is_none(), "the last share gives it back");
    }

    #[test]
    fn an_inner_one_replaces_the_outer_one_for_its_own_work() {
        let of = || share().and_then(|held| held.downcast_ref::<u8>().copied());
        let mut context = Context::from_waker(Waker::noop());
        let mut work = pin!(holding(Arc::new(1_u8), async {
            let inner = holding(Arc::new(2_u8), async { of() }).await;
            (inner, of())
        }));
        assert_eq!(work.as_mut().poll(&mut context), Poll::Ready((Some(2), Some(1))));
    }
}
