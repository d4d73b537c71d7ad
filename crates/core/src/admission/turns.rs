//! Whose turn it is at a gate: so many at work, so many waiting, and the waiting served in turn over tenants.
//!
//! Each tenant has a line of its own, first come, first served; the lines are served one after the other. When as many
//! wait as may, the newest of the longest line gives way to a newcomer whose line stays shorter. So a tenant that sends
//! without end fills its own line only: somebody else waits for at most one turn of each tenant before theirs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use hashbrown::HashMap;

/// A place in a line.
pub type Ticket = u64;

/// What happens to a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It goes in.
    Admitted,
    /// It waits; whoever gave way to it does not wait any more.
    Waits {
        /// Its place.
        ticket: Ticket,
        /// The place that was given up for it.
        displaced: Option<Ticket>,
    },
    /// As many wait as may, and none of them has to give way.
    Refused,
}

struct Line {
    /// Its number among the lines; the smallest is next.
    turn: u64,
    tickets: VecDeque<Ticket>,
}

/// The state of a gate. Every operation takes time logarithmic in the number of tenants that wait.
pub struct Turns {
    max_inflight: usize,
    max_queue: usize,
    inflight: usize,
    queued: usize,
    next_ticket: Ticket,
    next_turn: u64,
    lines: HashMap<Arc<str>, Line>,
    order: BTreeMap<u64, Arc<str>>,
    by_length: BTreeSet<(usize, Arc<str>)>,
}

impl Turns {
    /// A gate with nobody in it. At most `max_inflight` (at least 1) are at work and `max_queue` wait.
    pub fn new(max_inflight: usize, max_queue: usize) -> Self {
        Self {
            max_inflight: max_inflight.max(1),
            max_queue,
            inflight: 0,
            queued: 0,
            next_ticket: 0,
            next_turn: 0,
            lines: HashMap::new(),
            order: BTreeMap::new(),
            by_length: BTreeSet::new(),
        }
    }

    /// How many are at work, and how many wait.
    pub const fn load(&self) -> (usize, usize) {
        (self.inflight, self.queued)
    }

    /// Somebody of a tenant comes.
    pub fn arrive(&mut self, tenant: &str) -> Entry {
        // Nobody waits while there is room: whoever leaves hands over to whoever is next.
        if self.inflight < self.max_inflight {
            self.inflight += 1;
            return Entry::Admitted;
        }
        if self.queued < self.max_queue {
            return Entry::Waits { ticket: self.join(tenant), displaced: None };
        }
        let own = self.lines.get(tenant).map_or(0, |line| line.tickets.len());
        let longest =
            self.by_length.last().filter(|(length, _)| *length > own + 1).map(|(_, tenant)| Arc::clone(tenant));
        let Some(longest) = longest else { return Entry::Refused };
        let displaced = self.change(&longest, VecDeque::pop_back);
        Entry::Waits { ticket: self.join(tenant), displaced }
    }

    /// Somebody at work leaves. The answer goes in instead, if there is one.
    pub fn leave(&mut self) -> Option<Ticket> {
        let Some((_, tenant)) = self.order.pop_first() else {
            self.inflight = self.inflight.saturating_sub(1);
            return None;
        };
        let turn = self.turn();
        if let Some(line) = self.lines.get_mut(&tenant) {
            line.turn = turn;
            self.order.insert(turn, Arc::clone(&tenant));
        }
        self.change(&tenant, VecDeque::pop_front)
    }

    /// Somebody waits no longer. Whether they still did.
    pub fn give_up(&mut self, tenant: &str, ticket: Ticket) -> bool {
        self.change(tenant, |tickets| {
            // Tickets of a line ascend.
            let at = tickets.binary_search(&ticket).ok()?;
            tickets.remove(at)
        })
        .is_some()
    }

    fn turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }

    fn join(&mut self, tenant: &str) -> Ticket {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        if !self.lines.contains_key(tenant) {
            let (turn, tenant): (u64, Arc<str>) = (self.turn(), tenant.into());
            self.order.insert(turn, Arc::clone(&tenant));
            self.lines.insert(tenant, Line { turn, tickets: VecDeque::new() });
        }
        self.change(tenant, |tickets| {
            tickets.push_back(ticket);
            None
        });
        ticket
    }

    /// Changes a line and what is known about it; a line without anybody is forgotten.
    fn change(&mut self, tenant: &str, change: impl FnOnce(&mut VecDeque<Ticket>) -> Option<Ticket>) -> Option<Ticket> {
        let (name, line) = self.lines.get_key_value_mut(tenant)?;
        let (name, before) = (Arc::clone(name), line.tickets.len());
        let ticket = change(&mut line.tickets);
        let (after, turn) = (line.tickets.len(), line.turn);
        self.queued = self.queued + after - before;
        self.by_length.remove(&(before, Arc::clone(&name)));
        if after == 0 {
            self.lines.remove(tenant);
            self.order.remove(&turn);
        } else {
            self.by_length.insert((after, name));
        }
        ticket
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waits(entry: Entry) -> Ticket {
        match entry {
            Entry::Waits { ticket, displaced: None } => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_served_in_turn() {
        let mut turns = Turns::new(1, 10);
        assert_eq!(turns.arrive("a"), Entry::Admitted);
        let noisy: Vec<Ticket> = (0..4).map(|_| waits(turns.arrive("a"))).collect();
        let quiet = waits(turns.arrive("b"));
        let served: Vec<Ticket> = (0..5).filter_map(|_| turns.leave()).collect();
        assert_eq!(served, [noisy[0], quiet, noisy[1], noisy[2], noisy[3]]);
        assert_eq!((turns.leave(), turns.load()), (None, (0, 0)));
    }

    #[test]
    fn the_newest_of_the_longest_line_gives_way() {
        let mut turns = Turns::new(1, 3);
        turns.arrive("a");
        let noisy: Vec<Ticket> = (0..3).map(|_| waits(turns.arrive("a"))).collect();
        assert_eq!(turns.arrive("a"), Entry::Refused, "it is the newest of the longest line itself");
        let Entry::Waits { ticket: quiet, displaced } = turns.arrive("b") else { panic!("refused") };
        assert_eq!(displaced, Some(noisy[2]));
        assert_eq!(turns.arrive("b"), Entry::Refused, "two lines of two and one: nobody is longer by two");
        assert!(!turns.give_up("a", noisy[2]) && turns.give_up("a", noisy[0]));
        assert_eq!(turns.load(), (1, 2));
        assert_eq!([turns.leave(), turns.leave()], [Some(noisy[1]), Some(quiet)]);
    }

    #[test]
    fn a_tenant_that_goes_and_comes_back_has_one_turn() {
        let mut turns = Turns::new(1, 10);
        turns.arrive("a");
        let gone = waits(turns.arrive("a"));
        turns.give_up("a", gone);
        let (again, also) = (waits(turns.arrive("a")), waits(turns.arrive("a")));
        let other = waits(turns.arrive("b"));
        assert_eq!([turns.leave(), turns.leave(), turns.leave()], [Some(again), Some(other), Some(also)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arrive(u8),
        Leave,
        GiveUp(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u8..4).prop_map(Step::Arrive),
            2 => Just(Step::Leave),
            1 => (0usize..100).prop_map(Step::GiveUp),
        ];
        prop::collection::vec(step, 1..300)
    }

    proptest! {
        /// Counts are right, limits hold, nobody waits while there is room, lines keep their order, and only the newest of
        /// another tenant's longest line gives way.
        #[test]
        fn limits_and_order_hold(max_inflight in 1usize..4, max_queue in 0usize..12, steps in steps()) {
            let mut turns = Turns::new(max_inflight, max_queue);
            let (mut inflight, mut waiting): (usize, Vec<(String, Ticket)>) = (0, Vec::new());
            for step in steps {
                match step {
                    Step::Arrive(tenant) => {
                        let tenant = tenant.to_string();
                        match turns.arrive(&tenant) {
                            Entry::Admitted => {
                                prop_assert!(waiting.is_empty());
                                inflight += 1;
                            }
                            Entry::Waits { ticket, displaced } => {
                                prop_assert_eq!(displaced.is_some(), waiting.len() == max_queue);
                                if let Some(displaced) = displaced {
                                    let at = waiting.iter().position(|w| w.1 == displaced).unwrap();
                                    let longest = waiting[at].0.clone();
                                    let newest = waiting.iter().filter(|w| w.0 == longest).map(|w| w.1).max();
                                    prop_assert_eq!(newest, Some(displaced));
                                    prop_assert!(longest != tenant);
                                    waiting.remove(at);
                                }
                                waiting.push((tenant, ticket));
                            }
                            Entry::Refused => prop_assert_eq!(waiting.len(), max_queue),
                        }
                    }
                    Step::Leave if inflight > 0 => match turns.leave() {
                        Some(ticket) => {
                            let at = waiting.iter().position(|w| w.1 == ticket).unwrap();
                            let (tenant, _) = waiting.remove(at);
                            prop_assert!(!waiting[..at].iter().any(|w| w.0 == tenant), "first come, first served");
                        }
                        None => {
                            prop_assert!(waiting.is_empty());
                            inflight -= 1;
                        }
                    },
                    Step::Leave => {}
                    Step::GiveUp(which) if !waiting.is_empty() => {
                        let (tenant, ticket) = waiting.remove(which % waiting.len());
                        prop_assert!(turns.give_up(&tenant, ticket));
                        prop_assert!(!turns.give_up(&tenant, ticket));
                    }
                    Step::GiveUp(_) => {}
                }
                prop_assert!(inflight <= max_inflight && waiting.len() <= max_queue);
                prop_assert_eq!(turns.load(), (inflight, waiting.len()));
            }
        }

        /// Somebody whose line was empty waits for at most one turn of each other tenant.
        #[test]
        fn a_quiet_tenant_waits_one_round(noise in prop::collection::vec(0u8..5, 0..60), more in 0usize..20) {
            let mut turns = Turns::new(1, 200);
            turns.arrive("0");
            let mut others = BTreeSet::new();
            for tenant in noise {
                turns.arrive(&tenant.to_string());
                others.insert(tenant);
            }
            let quiet = waits(turns.arrive("quiet"));
            for _ in 0..more {
                turns.arrive("0");
                others.insert(0);
            }
            let mut before = 0;
            while let Some(ticket) = turns.leave() {
                if ticket == quiet {
                    break;
                }
                before += 1;
                turns.arrive("0");
                others.insert(0);
            }
            prop_assert!(before <= others.len(), "{before} of {others:?} went first");
        }
    }
}
