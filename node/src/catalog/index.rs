//! Indexes: sorted keys that end in an ordinal, packed into blocks of one database page.
//!
//! A row of its own for each key costs a descent of the tree and a moved page per key, and hashes come in no order: a
//! commit of many contents touches all of the index. Packed, it touches each page once.

use super::{
    CatalogError,
    rows::{self, TAG_BYTES},
};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use std::{collections::BTreeMap, ops::Bound};

/// First key of a block → the keys of the block, sorted. The first block of all begins at zero, and a block holds the keys
/// up to the next one's beginning.
pub(super) type IndexDefinition<const N: usize> = TableDefinition<'static, &'static [u8; N], &'static [u8]>;

/// Bytes of keys in a block at most. A block, its first key, its checksum and the page's own numbers fill one page.
const BLOCK_BYTES: usize = 4_032;
const _: () = assert!(BLOCK_BYTES + TAG_BYTES + 12 + 8 <= 4_096);
/// Blocks kept in memory before they are written back: bounds what one large commit needs, to 25 MB.
const BLOCKS_CACHED_MAX: usize = 6_000;

fn decode<'a, const N: usize>(
    definition: IndexDefinition<N>,
    start: &[u8; N],
    row: &'a [u8],
) -> Result<&'a [[u8; N]], CatalogError> {
    match rows::open(definition, &start, row)?.as_chunks() {
        (keys, []) => Ok(keys),
        _ => Err(CatalogError::damaged(redb::TableHandle::name(&definition))),
    }
}

/// The part of sorted keys from one to another, both included.
fn between<'a, const N: usize>(keys: &'a [[u8; N]], from: &[u8; N], until: &[u8; N]) -> &'a [[u8; N]] {
    let keys = &keys[keys.partition_point(|key| key < from)..];
    // Mostly there are none or one.
    &keys[..keys.iter().take_while(|key| *key <= until).count()]
}

/// The committed keys from one to another, both included, in order.
pub(super) fn range<const N: usize>(
    definition: IndexDefinition<N>,
    table: &impl ReadableTable<&'static [u8; N], &'static [u8]>,
    from: &[u8; N],
    until: &[u8; N],
) -> Result<Vec<[u8; N]>, CatalogError> {
    let mut found = Vec::new();
    let mut blocks = table.upper_bound(Bound::Included(until))?;
    while let Some((start, row)) = blocks.prev()? {
        let start = *start.value();
        found.extend(between(decode(definition, &start, row.value())?, from, until).iter().rev());
        if start <= *from {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

struct Block<const N: usize> {
    start: [u8; N],
    /// Where the next block begins.
    next: Option<[u8; N]>,
    keys: Vec<[u8; N]>,
    is_changed: bool,
}

impl<const N: usize> Block<N> {
    fn covers(&self, key: &[u8; N]) -> bool {
        self.start <= *key && self.next.is_none_or(|next| *key < next)
    }
}

/// An index in a transaction. What is changed is seen at once, and written by [`flush`](Self::flush).
pub(super) struct Index<'t, const N: usize> {
    definition: IndexDefinition<N>,
    table: Table<'t, &'static [u8; N], &'static [u8]>,
    blocks: Vec<Block<N>>,
    /// Where a block begins → its place in `blocks`.
    starts: BTreeMap<[u8; N], usize>,
    /// The block that was used last: neighbours mostly come together.
    recent: usize,
}

impl<'t, const N: usize> Index<'t, N> {
    const KEYS_MAX: usize = BLOCK_BYTES / N;

    pub(super) fn open(txn: &'t WriteTransaction, definition: IndexDefinition<N>) -> Result<Self, CatalogError> {
        let table = txn.open_table(definition)?;
        Ok(Self { definition, table, blocks: Vec::new(), starts: BTreeMap::new(), recent: 0 })
    }

    /// The place of the block that a key belongs to.
    fn block(&mut self, key: &[u8; N]) -> Result<usize, CatalogError> {
        if self.blocks.get(self.recent).is_some_and(|block| block.covers(key)) {
            return Ok(self.recent);
        }
        let cached = self.starts.range(..=*key).next_back().map(|(_, at)| *at);
        self.recent = match cached.filter(|at| self.blocks[*at].covers(key)) {
            Some(at) => at,
            None => self.load(key)?,
        };
        Ok(self.recent)
    }

    fn load(&mut self, key: &[u8; N]) -> Result<usize, CatalogError> {
        if self.blocks.len() >= BLOCKS_CACHED_MAX {
            self.flush()?;
        }
        let mut around = self.table.upper_bound(Bound::Included(key))?;
        let mut keys = Vec::with_capacity(Self::KEYS_MAX + 1);
        let start = match around.peek_prev()? {
            Some((start, row)) => {
                keys.extend_from_slice(decode(self.definition, start.value(), row.value())?);
                *start.value()
            }
            None => [0; N],
        };
        let next = around.peek_next()?.map(|(next, _)| *next.value());
        drop(around);
        Ok(self.keep(Block { start, next, keys, is_changed: false }))
    }

    fn keep(&mut self, block: Block<N>) -> usize {
        self.starts.insert(block.start, self.blocks.len());
        self.blocks.push(block);
        self.blocks.len() - 1
    }

    /// The keys from one to another, both included, in order.
    pub(super) fn range(&mut self, from: &[u8; N], until: &[u8; N]) -> Result<Vec<[u8; N]>, CatalogError> {
        let (mut found, mut at) = (Vec::new(), *from);
        loop {
            let place = self.block(&at)?;
            let block = &self.blocks[place];
            found.extend_from_slice(between(&block.keys, from, until));
            match block.next {
                Some(next) if next <= *until => at = next,
                _ => return Ok(found),
            }
        }
    }

    pub(super) fn insert(&mut self, key: [u8; N]) -> Result<(), CatalogError> {
        let place = self.block(&key)?;
        let block = &mut self.blocks[place];
        let Err(at) = block.keys.binary_search(&key) else { return Ok(()) };
        block.is_changed = true;
        block.keys.insert(at, key);
        if block.keys.len() > Self::KEYS_MAX {
            // Keys that come in order leave full blocks behind.
            let cut = if at == Self::KEYS_MAX { at } else { block.keys.len() / 2 };
            let mut keys = Vec::with_capacity(Self::KEYS_MAX + 1);
            keys.extend(block.keys.drain(cut..));
            let (start, next) = (keys[0], block.next);
            block.next = Some(start);
            self.keep(Block { start, next, keys, is_changed: true });
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &[u8; N]) -> Result<(), CatalogError> {
        let place = self.block(key)?;
        let block = &mut self.blocks[place];
        if let Ok(at) = block.keys.binary_search(key) {
            block.keys.remove(at);
            block.is_changed = true;
        }
        Ok(())
    }

    /// Removes all keys.
    pub(super) fn clear(&mut self) -> Result<(), CatalogError> {
        self.let_go();
        Ok(self.table.retain(|_, _| false)?)
    }

    /// Writes what has changed; call before the commit.
    pub(super) fn flush(&mut self) -> Result<(), CatalogError> {
        for at in self.starts.values() {
            let block = &self.blocks[*at];
            if block.is_changed {
                let row = rows::close(self.definition, &&block.start, block.keys.as_flattened());
                self.table.insert(&block.start, row.as_slice())?;
            }
        }
        self.let_go();
        Ok(())
    }

    fn let_go(&mut self) {
        self.blocks.clear();
        self.starts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::{Database, ReadableDatabase, backends::InMemoryBackend};
    use std::collections::BTreeSet;

    const INDEX: IndexDefinition<8> = TableDefinition::new("test-1");

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64),
        /// So many keys one after another.
        Run(u64, u64),
        Remove(u64),
        Flush,
        Clear,
        Look(u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Few enough to meet again, many enough for some blocks.
        let key = || prop_oneof![0..4_000u64, Just(0), Just(u64::MAX)];
        let step = prop_oneof![
            30 => key().prop_map(Step::Insert),
            10 => (0..4_000u64, 1..600u64).prop_map(|(from, count)| Step::Run(from, count)),
            20 => key().prop_map(Step::Remove),
            4 => Just(Step::Flush),
            1 => Just(Step::Clear),
            10 => (key(), key()).prop_map(|(a, b)| Step::Look(a.min(b), a.max(b))),
        ];
        prop::collection::vec(step, 1..120)
    }

    fn expected(model: &BTreeSet<u64>, from: u64, until: u64) -> Vec<[u8; 8]> {
        model.range(from..=until).map(|key| key.to_be_bytes()).collect()
    }

    proptest! {
        #[test]
        fn an_index_is_a_sorted_set(steps in steps()) {
            let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
            let mut model = BTreeSet::new();
            for steps in steps.chunks(20) {
                let txn = database.begin_write().unwrap();
                let mut index = Index::open(&txn, INDEX).unwrap();
                for step in steps {
                    match *step {
                        Step::Insert(key) => {
                            model.insert(key);
                            index.insert(key.to_be_bytes()).unwrap();
                        }
                        Step::Run(from, count) => for key in from..from + count {
                            model.insert(key);
                            index.insert(key.to_be_bytes()).unwrap();
                        },
                        Step::Remove(key) => {
                            model.remove(&key);
                            index.remove(&key.to_be_bytes()).unwrap();
                        }
                        Step::Flush => index.flush().unwrap(),
                        Step::Clear => {
                            model.clear();
                            index.clear().unwrap();
                        }
                        Step::Look(from, until) => {
                            let found = index.range(&from.to_be_bytes(), &until.to_be_bytes()).unwrap();
                            prop_assert_eq!(found, expected(&model, from, until));
                        }
                    }
                }
                index.flush().unwrap();
                drop(index);
                txn.commit().unwrap();
                let table = database.begin_read().unwrap().open_table(INDEX).unwrap();
                for (from, until) in [(0, u64::MAX), (100, 100), (500, 3_000)] {
                    let found = range(INDEX, &table, &u64::to_be_bytes(from), &until.to_be_bytes()).unwrap();
                    prop_assert_eq!(found, expected(&model, from, until));
                }
            }
        }
    }

    fn blocks(keys: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = database.begin_write().unwrap();
        let mut index = Index::open(&txn, INDEX).unwrap();
        keys.into_iter().for_each(|key| index.insert(key.to_be_bytes()).unwrap());
        index.flush().unwrap();
        index.table.iter().unwrap().map(|row| row.unwrap().1.value().len()).collect()
    }

    #[test]
    fn keys_in_order_leave_full_blocks() {
        let full = TAG_BYTES + BLOCK_BYTES;
        assert_eq!(blocks(0..1_009), [full, full, TAG_BYTES + 8]);
        assert!(
            blocks((0..100_000u64).map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15))).iter().all(|len| *len <= full)
        );
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = database.begin_write().unwrap();
        {
            let mut row = rows::close(INDEX, &&[0; 8], &[7; 16]);
            row[20] ^= 1;
            txn.open_table(INDEX).unwrap().insert(&[0; 8], row.as_slice()).unwrap();
        }
        let mut index = Index::open(&txn, INDEX).unwrap();
        assert!(index.range(&[0; 8], &[9; 8]).unwrap_err().is_damage());
        assert!(index.insert([9; 8]).unwrap_err().is_damage());
        assert!(range(INDEX, &index.table, &[0; 8], &[9; 8]).unwrap_err().is_damage());
    }
}
