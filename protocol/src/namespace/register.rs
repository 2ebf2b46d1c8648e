//! What one path of a synced folder holds: an add-wins register with several values.
//!
//! An operation replaces what its context names and nothing else. So the heads of a key are a function of the *set* of
//! operations heard: those that no context names. Any order and any repetition gives the same. Same idea as the
//! optimised OR-set (Bieniusa et al., arXiv:1210.3368), with places in signed logs as dots.

use crate::{
    log::{Author, VersionVector},
    record::{CONTEXT_AUTHORS_MAX, Context, FolderFile, FolderValue, Stamp},
};
use std::{cmp::Reverse, collections::BTreeSet};

/// A value or delete that nothing known replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Who said it and when.
    pub stamp: Stamp,
    /// What it replaced.
    pub context: Context,
    /// What it says.
    pub value: FolderValue,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Merged {
    /// The operation is a head now and was none before.
    pub is_new: bool,
    /// Heads that are none any more.
    pub replaced: Vec<Head>,
}

/// All that is known of one key. Merge law: the heads are what no context names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Register {
    /// Greatest stamp first.
    heads: Vec<Head>,
    /// All contexts together.
    replaced: VersionVector,
}

impl Register {
    /// Puts together what [`heads`](Self::heads) and [`replaced`](Self::replaced) gave.
    pub fn from_parts(mut heads: Vec<Head>, replaced: VersionVector) -> Self {
        heads.sort_unstable_by_key(|head| Reverse(head.stamp));
        Self { heads, replaced }
    }

    /// Values and deletes that nothing known replaces, greatest stamp first.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Of each author, how many operations are replaced as far as they are on this key.
    pub const fn replaced(&self) -> &VersionVector {
        &self.replaced
    }

    /// Merges an operation. Operations of one author on one key replace each other only by context, as all do.
    pub fn merge(&mut self, head: Head) -> Merged {
        for (author, count) in head.context.iter() {
            self.replaced.advance(*author, *count);
        }
        let known = &self.replaced;
        let replaced = self.heads.extract_if(.., |head| is_replaced(known, &head.stamp)).collect();
        let place = self.heads.binary_search_by(|known| head.stamp.cmp(&known.stamp));
        let is_new = !is_replaced(&self.replaced, &head.stamp) && place.is_err();
        if let (true, Err(place)) = (is_new, place) {
            self.heads.insert(place, head);
        }
        Merged { is_new, replaced }
    }

    /// The context of an operation that is written in sight of all this: it replaces all heads.
    ///
    /// Where that names more than [`CONTEXT_AUTHORS_MAX`] authors, those of heads are kept first, greatest stamp first, then
    /// others in ascending order. What is left out may come back as a further value, which loses nothing.
    pub fn context(&self) -> Context {
        let mut counts = self.replaced.clone();
        for head in &self.heads {
            counts.advance(head.stamp.author, head.stamp.seq.saturating_add(1));
        }
        let heads = self.heads.iter().map(|head| &head.stamp.author);
        let mut kept: BTreeSet<Author> = BTreeSet::new();
        for author in heads.chain(counts.iter().map(|(author, _)| author)) {
            if kept.len() < CONTEXT_AUTHORS_MAX {
                kept.insert(*author);
            }
        }
        let kept = kept.into_iter().map(|author| (author, counts.get(&author))).collect();
        Context::new(kept).expect("sorted by the set, bounded above, and no vector holds a count of 0")
    }

    /// The value that shows under the path: the greatest stamp among the values; a delete never hides one.
    pub fn winner(&self) -> Option<(&Head, &FolderFile)> {
        self.values().next()
    }

    /// The values that show as conflict copies: those whose bytes no greater one has.
    pub fn losers(&self) -> impl Iterator<Item = (&Head, &FolderFile)> {
        self.values().enumerate().skip(1).filter_map(|(at, value)| {
            let is_shown = self.values().take(at).any(|(_, greater)| greater.content == value.1.content);
            (!is_shown).then_some(value)
        })
    }

    fn values(&self) -> impl Iterator<Item = (&Head, &FolderFile)> {
        self.heads.iter().filter_map(|head| match &head.value {
            FolderValue::File(file) => Some((head, file)),
            FolderValue::Deleted => None,
        })
    }
}

fn is_replaced(replaced: &VersionVector, stamp: &Stamp) -> bool {
    replaced.get(&stamp.author) > stamp.seq
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        id::{ContentId, DeviceId},
        time::{Hlc, Timestamp},
    };
    use proptest::prelude::*;

    pub(in crate::namespace) fn author(number: u8) -> Author {
        Author { device: DeviceId::new([number; 32]), incarnation: 0 }
    }

    pub(in crate::namespace) fn file(content: u8) -> FolderValue {
        let content = ContentId::new([content; 32]);
        FolderValue::File(FolderFile { content, size: 1, modified: Timestamp(0) })
    }

    pub(in crate::namespace) fn head(of: u8, seq: u64, ms: u64, value: FolderValue) -> Head {
        let stamp = Stamp { hlc: Hlc::from_parts(ms, 0), author: author(of), seq };
        Head { stamp, context: Context::default(), value }
    }

    /// Operations by up to four authors, each with the context of some replica that heard a part of those before.
    fn histories() -> impl Strategy<Value = Vec<Head>> {
        let step = (0u8..4, any::<u16>(), prop::option::weighted(0.7, 0u8..5), 0u64..6);
        prop::collection::vec(step, 1..12).prop_map(|steps| {
            let mut said: Vec<Head> = Vec::new();
            for (of, hears, value, ms) in steps {
                let mut shown = Register::default();
                let seq = said.iter().filter(|head| head.stamp.author == author(of)).count() as u64;
                for (at, head) in said.iter().enumerate() {
                    if head.stamp.author == author(of) || (hears >> at) & 1 == 1 {
                        shown.merge(head.clone());
                    }
                }
                let value = value.map_or(FolderValue::Deleted, file);
                said.push(Head { context: shown.context(), ..head(of, seq, ms, value) });
            }
            said
        })
    }

    /// Contexts that no honest device writes, in any combination.
    fn forged() -> impl Strategy<Value = Vec<Head>> {
        let counts = prop::collection::btree_map(0u8..4, 1u64..4, 0..4);
        let step = (0u8..4, 0u64..4, counts, 0u8..3);
        prop::collection::vec(step, 1..10).prop_map(|steps| {
            let mut said: Vec<Head> = Vec::new();
            for (of, seq, counts, value) in steps {
                let counts = counts.into_iter().map(|(of, count)| (author(of), count)).collect();
                let context = Context::new(counts).unwrap();
                let new = Head { context, ..head(of, seq, seq, file(value)) };
                if said.iter().all(|old| old.stamp != new.stamp) {
                    said.push(new);
                }
            }
            said
        })
    }

    fn merged<'a>(heads: impl IntoIterator<Item = &'a Head>) -> Register {
        let mut register = Register::default();
        for head in heads {
            register.merge(head.clone());
        }
        register
    }

    fn shuffled(heads: &[Head], mut seed: u64) -> Vec<Head> {
        let mut heads = heads.to_vec();
        for at in (1..heads.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            heads.swap(at, (seed >> 33) as usize % (at + 1));
        }
        heads
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_gives_the_same(said in prop_oneof![histories(), forged()], seed: u64, cut in 0usize..12) {
            let all = merged(&said);
            prop_assert_eq!(&merged(&shuffled(&said, seed)), &all);
            prop_assert_eq!(&merged(said.iter().chain(&shuffled(&said, seed))), &all);
            let (one, two) = said.split_at(cut.min(said.len()));
            prop_assert_eq!(&merged(two.iter().chain(one)), &all);
        }

        #[test]
        fn what_a_merge_says_adds_up_to_the_heads(said in prop_oneof![histories(), forged()], seed: u64) {
            let (mut register, mut counted) = (Register::default(), BTreeSet::new());
            for head in shuffled(&said, seed) {
                let merged = register.merge(head.clone());
                if merged.is_new {
                    prop_assert!(counted.insert(head.stamp));
                }
                prop_assert!(merged.replaced.iter().all(|head| counted.remove(&head.stamp)));
                prop_assert_eq!(Register::from_parts(register.heads().to_vec(), register.replaced().clone()), register.clone());
            }
            prop_assert_eq!(counted, register.heads().iter().map(|head| head.stamp).collect());
        }

        #[test]
        fn only_what_was_known_is_replaced(said in histories()) {
            let register = merged(&said);
            for op in &said {
                let known = said.iter().any(|by| by.context.get(&op.stamp.author) > op.stamp.seq);
                prop_assert_eq!(register.heads().contains(op), !known);
                // An edit that no delete or edit knew of shows, by itself or as the same bytes.
                if let (FolderValue::File(file), false) = (&op.value, known) {
                    let mut shown = register.winner().into_iter().chain(register.losers());
                    prop_assert!(shown.any(|(_, shown)| shown.content == file.content));
                }
            }
        }

        #[test]
        fn a_write_in_sight_of_all_is_the_only_head(said in histories(), deletes: bool) {
            let mut register = merged(&said);
            let value = if deletes { FolderValue::Deleted } else { file(9) };
            let last = Head { context: register.context(), ..head(0, 99, 0, value) };
            register.merge(last.clone());
            prop_assert_eq!(register.heads(), &[last][..]);
            prop_assert_eq!(register.winner().is_none(), deletes);
        }
    }

    #[test]
    fn a_delete_does_not_beat_an_edit_that_it_did_not_know() {
        let base = head(1, 0, 1, file(1));
        let after = |of, ms, value| Head { context: merged([&base]).context(), ..head(of, 7, ms, value) };
        let (edit, delete) = (after(2, 5, file(2)), after(3, 900, FolderValue::Deleted));
        let register = merged([&delete, &base, &edit]);
        assert_eq!(register.winner().unwrap().0, &edit);
        assert_eq!(register.losers().count(), 0);
        assert_eq!(merged([&base, &delete]).winner(), None);
    }

    #[test]
    fn the_later_one_shows_and_the_device_breaks_ties() {
        let (early, late) = (head(9, 0, 1, file(1)), head(1, 0, 2, file(2)));
        let tied = head(2, 0, 2, file(3));
        let register = merged([&early, &late, &tied]);
        assert_eq!(register.winner().unwrap().0, &tied);
        assert_eq!(register.losers().map(|(head, _)| head).collect::<Vec<_>>(), [&late, &early]);
        let same = head(3, 0, 0, file(3));
        assert_eq!(merged([&tied, &same]).losers().count(), 0, "the same bytes need no copy");
    }

    #[test]
    fn a_context_keeps_the_authors_of_heads_when_there_are_too_many() {
        let mut register = Register::default();
        let counts = (0..100).map(|of| (author(of), 5)).collect();
        register.merge(Head { context: Context::new(counts).unwrap(), ..head(250, 0, 1, file(1)) });
        for of in 100..200 {
            register.merge(head(of, 0, u64::from(of), file(2)));
        }
        let context = register.context();
        assert_eq!(context.iter().count(), CONTEXT_AUTHORS_MAX);
        assert!(register.heads().iter().all(|head| context.get(&head.stamp.author) == head.stamp.seq + 1));
        register.merge(Head { context, ..head(251, 0, 999, file(3)) });
        assert_eq!(register.heads().len(), 1);
    }
}
