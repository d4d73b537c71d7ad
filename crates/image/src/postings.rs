//! The posting list of one term, in few bytes: documents in order, each as its distance from the one before.
//!
//! Most terms are counted once in a document, and the documents of common terms lie close together, so that a posting
//! takes a byte or two. A list is cut into blocks that can be read on their own; a document is looked up, put in or taken
//! out within its block.

use super::Slot;

/// Postings of a block when a list is written as a whole.
const BLOCK: usize = 128;
/// Postings of a block at most; one that grows beyond is cut in two.
const BLOCK_MAX: usize = 2 * BLOCK;

/// The documents of one term with their counts, by slot.
#[derive(Default)]
pub(super) struct Postings {
    bytes: Vec<u8>,
    /// Blocks after the first, which begins at zero.
    blocks: Vec<Block>,
    len: u32,
    /// Postings of the last block.
    in_last: u32,
    /// The last document.
    last: Slot,
}

/// Where a block begins.
#[derive(Clone, Copy)]
struct Block {
    /// Its first document.
    first: Slot,
    /// Position of its first byte.
    at: u32,
}

impl Postings {
    pub(super) fn new(mut entries: Vec<(Slot, u16)>) -> Self {
        entries.sort_unstable_by_key(|entry| entry.0);
        let mut list = Self::default();
        entries.into_iter().for_each(|(slot, count)| list.append(slot, count));
        list
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.capacity() + self.blocks.capacity() * size_of::<Block>() + size_of::<Self>() + 48
    }

    /// Gives back what growing took too much. What is shrunk in place may keep up to twice its size, so it is copied.
    pub(super) fn shrink(&mut self) {
        if self.bytes.capacity() > self.bytes.len() {
            self.bytes = self.bytes.as_slice().to_vec();
        }
        if self.blocks.capacity() > self.blocks.len() {
            self.blocks = self.blocks.as_slice().to_vec();
        }
    }

    /// Sets a document's count; zero takes it out. Setting what is set already changes nothing.
    pub(super) fn set(&mut self, slot: Slot, count: u16) {
        if count > 0 && (self.len == 0 || slot > self.last) {
            self.append(slot, count);
            return;
        }
        let block = self.block_of(slot);
        let mut entries: Vec<(Slot, u16)> = self.block(block).collect();
        match (entries.binary_search_by_key(&slot, |entry| entry.0), count) {
            (Err(_), 0) => return,
            (Ok(at), 0) => _ = entries.remove(at),
            (Ok(at), count) => entries[at].1 = count,
            (Err(at), count) => entries.insert(at, (slot, count)),
        }
        self.replace(block, &entries);
    }

    /// How often the term occurs in each of some documents, which come in order.
    pub(super) fn counts<'a>(&'a self, slots: impl Iterator<Item = Slot> + 'a) -> impl Iterator<Item = u16> + 'a {
        let mut entries = self.block(0);
        let (mut of, mut next) = (0, entries.next());
        slots.map(move |slot| {
            // A block is read once for all documents in it.
            let block = if slot > self.last { of } else { self.block_of(slot) };
            if block != of {
                entries = self.block(block);
                (of, next) = (block, entries.next());
            }
            while next.is_some_and(|entry| entry.0 < slot) {
                next = entries.next();
            }
            next.filter(|entry| entry.0 == slot).map_or(0, |entry| entry.1)
        })
    }

    /// Takes documents out.
    pub(super) fn forget(&mut self, slots: &hashbrown::HashSet<Slot>) {
        if self.entries().any(|entry| slots.contains(&entry.0)) {
            *self = Self::new(self.entries().filter(|entry| !slots.contains(&entry.0)).collect());
        }
    }

    /// All documents with their counts, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Slot, u16)> + '_ {
        (0..=self.blocks.len()).flat_map(|block| self.block(block))
    }

    /// Adds a document after all others.
    fn append(&mut self, slot: Slot, count: u16) {
        if self.in_last as usize >= BLOCK {
            self.blocks.push(Block { first: slot, at: position(self.bytes.len()) });
            self.in_last = 0;
        }
        let before = if self.in_last == 0 { self.first_of(self.blocks.len()) } else { self.last };
        write(&mut self.bytes, slot - before, count);
        (self.last, self.len, self.in_last) = (slot, self.len + 1, self.in_last + 1);
    }

    /// Number of the block a document is in, if it is in the list.
    fn block_of(&self, slot: Slot) -> usize {
        self.blocks.partition_point(|block| block.first <= slot)
    }

    /// What the distance of a block's first document is counted from.
    fn first_of(&self, block: usize) -> Slot {
        block.checked_sub(1).map_or(0, |at| self.blocks[at].first)
    }

    /// Where a block's bytes are.
    fn span(&self, block: usize) -> std::ops::Range<usize> {
        let begin = block.checked_sub(1).map_or(0, |at| self.blocks[at].at as usize);
        begin..self.blocks.get(block).map_or(self.bytes.len(), |next| next.at as usize)
    }

    fn block(&self, block: usize) -> Entries<'_> {
        Entries { bytes: &self.bytes[self.span(block)], last: self.first_of(block) }
    }

    /// Writes a block anew: as none if it is empty, as two if it is too large.
    fn replace(&mut self, block: usize, entries: &[(Slot, u16)]) {
        let span = self.span(block);
        let was_last = block == self.blocks.len();
        let before = self.block(block).count();
        // The first block has no entry in the list of blocks: it always begins at zero.
        let parts: Vec<&[(Slot, u16)]> = match entries.len() {
            0 => Vec::new(),
            len if len > BLOCK_MAX => entries.chunks(len.div_ceil(2)).collect(),
            _ => vec![entries],
        };
        let mut written = Vec::with_capacity(span.len() + 8);
        let mut begun = Vec::with_capacity(2);
        for (part, entries) in parts.iter().enumerate() {
            let begins_list = block == 0 && part == 0;
            let mut last = if begins_list { 0 } else { entries[0].0 };
            if !begins_list {
                begun.push(Block { first: last, at: position(span.start + written.len()) });
            }
            for (slot, count) in *entries {
                write(&mut written, slot - last, *count);
                last = *slot;
            }
        }
        let (old, new) = (span.len(), written.len());
        self.bytes.splice(span, written);
        for later in &mut self.blocks[block..] {
            later.at = position(later.at as usize + new - old);
        }
        self.blocks.splice(block.saturating_sub(1)..block, begun);
        if block == 0 && entries.is_empty() && !self.blocks.is_empty() {
            // What was the second block is the first now, and its first document is counted from zero.
            self.rebase();
        }
        self.len = self.len - position(before) + position(entries.len());
        if was_last || self.len == 0 {
            let last = self.block(self.blocks.len()).last();
            self.in_last = position(self.block(self.blocks.len()).count());
            self.last = last.map_or(0, |entry| entry.0);
        }
    }

    fn rebase(&mut self) {
        let entries: Vec<(Slot, u16)> = self.block(1).collect();
        let span = self.span(1);
        let mut written = Vec::with_capacity(span.len() + 4);
        let mut last = 0;
        for (slot, count) in entries {
            write(&mut written, slot - last, count);
            last = slot;
        }
        let (old, new) = (span.len(), written.len());
        self.bytes.splice(span, written);
        self.blocks.remove(0);
        for later in &mut self.blocks {
            later.at = position(later.at as usize + new - old);
        }
    }
}

/// A position in a list: fewer than 2³² documents fit into an image.
fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Writes one posting: the distance with a bit that says whether the count is one, else the count after it. Seven bits to
/// a byte, the lowest first.
fn write(bytes: &mut Vec<u8>, distance: u32, count: u16) {
    let is_one = count == 1;
    write_number(bytes, u64::from(distance) << 1 | u64::from(is_one));
    if !is_one {
        write_number(bytes, u64::from(count));
    }
}

fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// The postings of a block.
struct Entries<'a> {
    bytes: &'a [u8],
    last: Slot,
}

impl Entries<'_> {
    fn number(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0_u64, 0);
        loop {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
            shift += 7;
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = (Slot, u16);

    #[expect(clippy::cast_possible_truncation, reason = "written from a slot and a count")]
    fn next(&mut self) -> Option<Self::Item> {
        let distance = self.number()?;
        let count = if distance & 1 == 1 { 1 } else { self.number()? as u16 };
        self.last += (distance >> 1) as Slot;
        Some((self.last, count))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn agrees(list: &Postings, model: &BTreeMap<Slot, u16>) {
        assert_eq!(list.entries().collect::<BTreeMap<_, _>>(), *model);
        assert!(list.entries().map(|entry| entry.0).is_sorted());
        assert_eq!(list.len(), model.len());
        assert_eq!(list.last, model.keys().next_back().copied().unwrap_or(0));
        assert_eq!(list.in_last as usize, list.block(list.blocks.len()).count());
        for block in 0..=list.blocks.len() {
            assert!(list.block(block).count() <= BLOCK_MAX, "block {block} of {}", list.blocks.len());
        }
    }

    fn count(list: &Postings, slot: Slot) -> Option<u16> {
        list.counts(std::iter::once(slot)).next()
    }

    proptest! {
        #[test]
        fn a_list_is_what_a_map_would_be(
            // Narrow and wide, so that documents are met again, and blocks are filled, cut and emptied.
            changes in prop::collection::vec((0..1_200_u32, prop_oneof![3 => 0..3_u16, 1 => Just(300_u16)]), 0..3_000),
            stride in prop_oneof![Just(1_u32), Just(97), Just(3_000_000)],
            sorted in any::<bool>(),
        ) {
            let mut changes = changes;
            if sorted {
                changes.sort_unstable();
            }
            let (mut list, mut model) = (Postings::default(), BTreeMap::new());
            for (slot, count) in changes {
                let slot = slot * stride;
                list.set(slot, count);
                match count {
                    0 => _ = model.remove(&slot),
                    count => _ = model.insert(slot, count),
                }
            }
            agrees(&list, &model);
            for apart in [1, 7, 400] {
                let asked = || (0..1_200).step_by(apart).map(|slot| slot * stride);
                let expected: Vec<u16> = asked().map(|slot| model.get(&slot).copied().unwrap_or(0)).collect();
                prop_assert_eq!(list.counts(asked()).collect::<Vec<_>>(), expected);
            }
            let gone: hashbrown::HashSet<Slot> = model.keys().copied().filter(|slot| slot % 3 == 0).collect();
            list.forget(&gone);
            model.retain(|slot, _| !gone.contains(slot));
            list.shrink();
            agrees(&list, &model);
            let anew = Postings::new(model.iter().rev().map(|(slot, count)| (*slot, *count)).collect());
            agrees(&anew, &model);
        }
    }

    #[test]
    fn a_list_is_emptied_from_either_end_and_filled_again() {
        for order in [false, true] {
            let mut list = Postings::new((0..1_000).map(|slot| (slot * 5, 1)).collect());
            let mut slots: Vec<Slot> = (0..1_000).map(|slot| slot * 5).collect();
            if order {
                slots.reverse();
            }
            for (gone, slot) in slots.iter().enumerate() {
                assert_eq!(count(&list, *slot), Some(1));
                list.set(*slot, 0);
                assert_eq!((count(&list, *slot), list.len()), (Some(0), 999 - gone));
            }
            assert_eq!((list.entries().count(), list.last), (0, 0));
            list.set(7, 2);
            list.set(3, 1);
            assert_eq!(list.entries().collect::<Vec<_>>(), [(3, 1), (7, 2)]);
        }
    }

    #[test]
    fn common_terms_take_little_more_than_a_byte_per_document() {
        let mut list = Postings::new((0..100_000).map(|slot| (slot * 9, 1 + u16::from(slot % 20 == 0))).collect());
        list.shrink();
        assert!(list.bytes() < 120_000, "{}", list.bytes());
    }
}
