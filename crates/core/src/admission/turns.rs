//! Whose turn it is at a gate: so many at work, so many waiting, and the waiting served in turn over tenants.
//!
//! Each tenant has a line of its own, first come, first served; the lines are served one after the other. When as many
//! wait as may, a tenant that has more at the gate, at work and waiting, than a newcomer's tenant would have gives up its
//! newest place in the queue to the newcomer. So a tenant that sends without end displaces itself only: somebody else
//! waits for at most one turn of each tenant before theirs, also where only one may wait.

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

/// A tenant that has somebody at work or waiting.
#[derive(Default)]
struct Line {
    /// Its number among the lines that wait; the smallest is next.
    turn: u64,
    at_work: usize,
    tickets: VecDeque<Ticket>,
}

impl Line {
    fn weight(&self) -> usize {
        self.at_work + self.tickets.len()
    }
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
    /// Lines somebody waits in, by turn.
    order: BTreeMap<u64, Arc<str>>,
    /// Lines somebody waits in, by what they have at the gate.
    by_weight: BTreeSet<(usize, Arc<str>)>,
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
            by_weight: BTreeSet::new(),
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
            self.change(tenant, |line| line.at_work += 1);
            return Entry::Admitted;
        }
        if self.queued < self.max_queue {
            return Entry::Waits { ticket: self.join(tenant), displaced: None };
        }
        let own = self.lines.get(tenant).map_or(0, Line::weight);
        let heaviest = self.by_weight.last().filter(|(weight, _)| *weight > own + 1).map(|(_, name)| Arc::clone(name));
        let Some(heaviest) = heaviest else { return Entry::Refused };
        let displaced = self.change(&heaviest, |line| line.tickets.pop_back());
        Entry::Waits { ticket: self.join(tenant), displaced }
    }

    /// Somebody of a tenant at work leaves. Whoever the answer names goes in instead, if it names one.
    pub fn leave(&mut self, tenant: &str) -> Option<(Ticket, Arc<str>)> {
        self.change(tenant, |line| line.at_work = line.at_work.saturating_sub(1));
        let Some((_, next)) = self.order.pop_first() else {
            self.inflight = self.inflight.saturating_sub(1);
            return None;
        };
        let turn = self.turn();
        if let Some(line) = self.lines.get_mut(&next) {
            line.turn = turn;
            self.order.insert(turn, Arc::clone(&next));
        }
        let ticket = self.change(&next, |line| {
            line.at_work += 1;
            line.tickets.pop_front()
        });
        ticket.map(|ticket| (ticket, next))
    }

    /// Somebody waits no longer. Whether they still did.
    pub fn give_up(&mut self, tenant: &str, ticket: Ticket) -> bool {
        self.change(tenant, |line| {
            // Tickets of a line ascend.
            let at = line.tickets.binary_search(&ticket).ok()?;
            line.tickets.remove(at)
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
        self.change(tenant, |line| line.tickets.push_back(ticket));
        ticket
    }

    /// Changes a line and what is known about it; a line without anybody is forgotten.
    fn change<T>(&mut self, tenant: &str, change: impl FnOnce(&mut Line) -> T) -> T {
        if !self.lines.contains_key(tenant) {
            self.lines.insert(tenant.into(), Line::default());
        }
        // It is there now; were it not, a line of nobody would be changed to no effect.
        let Some((name, line)) = self.lines.get_key_value_mut(tenant) else { return change(&mut Line::default()) };
        let (name, before) = (Arc::clone(name), line.tickets.len());
        self.by_weight.remove(&(line.weight(), Arc::clone(&name)));
        let done = change(line);
        let (after, weight) = (line.tickets.len(), line.weight());
        self.queued = self.queued + after - before;
        if before > 0 && after == 0 {
            self.order.remove(&line.turn);
        }
        if after > 0 {
            self.by_weight.insert((weight, Arc::clone(&name)));
            if before == 0 {
                self.next_turn += 1;
                line.turn = self.next_turn;
                self.order.insert(line.turn, name);
            }
        } else if weight == 0 {
            self.lines.remove(tenant);
        }
        done
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

    /// Lets everybody leave, and whoever goes in instead; tells the order.
    fn empty(turns: &mut Turns, at_work: &str) -> Vec<Ticket> {
        let (mut served, mut leaving): (Vec<Ticket>, Arc<str>) = (Vec::new(), at_work.into());
        while let Some((ticket, next)) = turns.leave(&leaving) {
            served.push(ticket);
            leaving = next;
        }
        served
    }

    #[test]
    fn lines_are_served_in_turn() {
        let mut turns = Turns::new(1, 10);
        assert_eq!(turns.arrive("a"), Entry::Admitted);
        let noisy: Vec<Ticket> = (0..4).map(|_| waits(turns.arrive("a"))).collect();
        let quiet = waits(turns.arrive("b"));
        let served: Vec<Ticket> = empty(&mut turns, "a");
        assert_eq!(served, [noisy[0], quiet, noisy[1], noisy[2], noisy[3]]);
        assert_eq!(turns.load(), (0, 0));
    }

    #[test]
    fn the_newest_of_the_longest_line_gives_way() {
        let mut turns = Turns::new(1, 3);
        turns.arrive("a");
        let noisy: Vec<Ticket> = (0..3).map(|_| waits(turns.arrive("a"))).collect();
        assert_eq!(turns.arrive("a"), Entry::Refused, "it is the newest of the longest line itself");
        let Entry::Waits { ticket: quiet, displaced } = turns.arrive("b") else { panic!("refused") };
        assert_eq!(displaced, Some(noisy[2]));
        let Entry::Waits { ticket: second, displaced } = turns.arrive("b") else { panic!("refused") };
        assert_eq!(displaced, Some(noisy[1]), "one at work and two waiting against one waiting");
        assert_eq!(turns.arrive("b"), Entry::Refused, "both have two at the gate");
        assert!(turns.give_up("b", second));
        let again = waits(turns.arrive("a"));
        assert!(!turns.give_up("a", noisy[2]) && turns.give_up("a", noisy[0]));
        assert_eq!(turns.load(), (1, 2));
        assert_eq!(empty(&mut turns, "a"), [again, quiet]);
    }

    #[test]
    fn a_tenant_that_goes_and_comes_back_has_one_turn() {
        let mut turns = Turns::new(1, 10);
        turns.arrive("a");
        let gone = waits(turns.arrive("a"));
        turns.give_up("a", gone);
        let (again, also) = (waits(turns.arrive("a")), waits(turns.arrive("a")));
        let other = waits(turns.arrive("b"));
        assert_eq!(empty(&mut turns, "a"), [again, other, also]);
    }

    #[test]
    fn where_one_may_wait_a_quiet_tenant_takes_the_place_of_a_noisy_one() {
        let mut turns = Turns::new(1, 1);
        turns.arrive("noisy");
        let waiting = waits(turns.arrive("noisy"));
        let Entry::Waits { ticket, displaced } = turns.arrive("quiet") else { panic!("refused") };
        assert_eq!(displaced, Some(waiting));
        assert_eq!((turns.arrive("noisy"), turns.arrive("quiet")), (Entry::Refused, Entry::Refused));
        assert_eq!(empty(&mut turns, "noisy"), [ticket]);
        assert_eq!(turns.load(), (0, 0));
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
            let (mut at_work, mut waiting): (Vec<String>, Vec<(String, Ticket)>) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Arrive(tenant) => {
                        let tenant = tenant.to_string();
                        match turns.arrive(&tenant) {
                            Entry::Admitted => {
                                prop_assert!(waiting.is_empty());
                                at_work.push(tenant);
                            }
                            Entry::Waits { ticket, displaced } => {
                                prop_assert_eq!(displaced.is_some(), waiting.len() == max_queue);
                                if let Some(displaced) = displaced {
                                    let at = waiting.iter().position(|w| w.1 == displaced).unwrap();
                                    let longest = waiting[at].0.clone();
                                    let newest = waiting.iter().filter(|w| w.0 == longest).map(|w| w.1).max();
                                    prop_assert_eq!(newest, Some(displaced));
                                    prop_assert!(longest != tenant);
                                    let weight = |of: &str| {
                                        at_work.iter().filter(|name| *name == of).count()
                                            + waiting.iter().filter(|w| w.0 == of).count()
                                    };
                                    prop_assert!(weight(&longest) > weight(&tenant) + 1);
                                    waiting.remove(at);
                                }
                                waiting.push((tenant, ticket));
                            }
                            Entry::Refused => prop_assert_eq!(waiting.len(), max_queue),
                        }
                    }
                    Step::Leave if !at_work.is_empty() => match turns.leave(&at_work.remove(0)) {
                        Some((ticket, next)) => {
                            let at = waiting.iter().position(|w| w.1 == ticket).unwrap();
                            let (tenant, _) = waiting.remove(at);
                            prop_assert!(!waiting[..at].iter().any(|w| w.0 == tenant), "first come, first served");
                            prop_assert_eq!(&tenant, &*next);
                            at_work.push(tenant);
                        }
                        None => prop_assert!(waiting.is_empty()),
                    },
                    Step::Leave => {}
                    Step::GiveUp(which) if !waiting.is_empty() => {
                        let (tenant, ticket) = waiting.remove(which % waiting.len());
                        prop_assert!(turns.give_up(&tenant, ticket));
                        prop_assert!(!turns.give_up(&tenant, ticket));
                    }
                    Step::GiveUp(_) => {}
                }
                prop_assert!(at_work.len() <= max_inflight && waiting.len() <= max_queue);
                prop_assert_eq!(turns.load(), (at_work.len(), waiting.len()));
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
            let mut leaving: Arc<str> = "0".into();
            while let Some((ticket, next)) = turns.leave(&leaving) {
                leaving = next;
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
