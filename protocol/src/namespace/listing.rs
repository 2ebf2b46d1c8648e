//! A synced folder as files: which value shows under which path.

use super::{Register, conflict_path, register::Head};
use crate::{
    path::{NfcPath, RelPath},
    record::FolderFile,
};
use std::collections::{BTreeMap, BTreeSet};
use unicode_normalization::UnicodeNormalization;

/// Which names are one and the same where the files shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Only equal ones.
    Exact,
    /// Those that differ in upper and lower case only are the same as well.
    CaseInsensitive,
}

impl Names {
    fn fold(self, text: &str) -> String {
        match self {
            Self::Exact => text.to_owned(),
            Self::CaseInsensitive => text.to_lowercase().nfc().collect(),
        }
    }
}

/// A value of a synced folder and where it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The key that it was written under.
    pub key: &'a NfcPath,
    /// Where it shows; `None` for a copy in a folder whose path is too long for its name.
    pub path: Option<RelPath>,
    /// Who wrote it, when, and in sight of what.
    pub head: &'a Head,
    /// The file.
    pub file: &'a FolderFile,
    /// It shows under another name than it was written under.
    pub is_copy: bool,
}

/// All values of a synced folder with the paths under which they show, in the order of their keys.
///
/// The greatest stamp keeps the name; everything else that wants it shows as a conflict copy beside it: what was written
/// concurrently, another spelling of the same name, a file where a folder must be. A name that is taken, be it by a
/// file that somebody called so, is passed over for the next number.
pub fn listing(registers: &BTreeMap<NfcPath, Register>, names: Names) -> Vec<Shown<'_>> {
    let winners: BTreeMap<&NfcPath, (&Head, &FolderFile)> =
        registers.iter().filter_map(|(key, register)| Some((key, register.winner()?))).collect();
    let mut folders = BTreeSet::new();
    let mut holders: BTreeMap<String, (&Head, &NfcPath)> = BTreeMap::new();
    for (key, (head, _)) in &winners {
        let mut around = key.path().parent();
        while let Some(folder) = around {
            if !folders.insert(names.fold(folder.as_str())) {
                break;
            }
            around = folder.parent();
        }
        let holder = holders.entry(names.fold(key.as_str())).or_insert((head, key));
        if head.stamp > holder.0.stamp {
            *holder = (head, key);
        }
    }
    holders.retain(|name, _| !folders.contains(name));
    let mut taken: BTreeSet<String> = holders.keys().cloned().chain(folders).collect();
    let mut shown = Vec::new();
    for (key, winner) in winners {
        let keeps = holders.get(&names.fold(key.as_str())).is_some_and(|(_, holder)| *holder == key);
        let losers = registers.get(key).into_iter().flat_map(Register::losers);
        for (at, (head, file)) in std::iter::once(winner).chain(losers).enumerate() {
            let is_copy = at > 0 || !keeps;
            let path = if is_copy {
                let mut tries = (1..).map_while(|again| conflict_path(key, &head.stamp, again));
                tries.find(|path| taken.insert(names.fold(path.as_str())))
            } else {
                Some(key.path().clone())
            };
            shown.push(Shown { key, path, head, file, is_copy });
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{
        super::register::tests::{file, head},
        *,
    };
    use crate::record::FolderValue;
    use proptest::prelude::*;

    fn key(text: &str) -> NfcPath {
        NfcPath::of(&RelPath::new(text).unwrap()).unwrap()
    }

    fn folder(said: impl IntoIterator<Item = (&'static str, Head)>) -> BTreeMap<NfcPath, Register> {
        let mut registers = BTreeMap::<NfcPath, Register>::new();
        for (path, head) in said {
            registers.entry(key(path)).or_default().merge(head);
        }
        registers
    }

    fn paths(registers: &BTreeMap<NfcPath, Register>, names: Names) -> Vec<String> {
        let shown = listing(registers, names);
        shown.iter().map(|shown| shown.path.as_ref().unwrap().as_str().to_owned()).collect()
    }

    const TAG: &str = ".sync-conflict-19700101-000001";

    #[test]
    fn the_loser_shows_beside_the_winner() {
        let registers = folder([("a.txt", head(1, 0, 1_000, file(1))), ("a.txt", head(2, 0, 2_000, file(2)))]);
        assert_eq!(paths(&registers, Names::Exact), ["a.txt".to_owned(), format!("a{TAG}-0101010.txt")]);
    }

    #[test]
    fn two_conflicts_in_one_second_have_two_names() {
        let late = head(2, 0, 2_000, file(3));
        let registers = folder([("a", late), ("a", head(1, 0, 1_000, file(1))), ("a", head(1, 1, 1_999, file(2)))]);
        assert_eq!(
            paths(&registers, Names::Exact),
            ["a".to_owned(), format!("a{TAG}-0101010"), format!("a{TAG}-0101010-2")]
        );
    }

    #[test]
    fn a_file_that_somebody_called_so_keeps_its_name() {
        let own = "a.sync-conflict-19700101-000001-0101010";
        let registers = folder([
            ("a", head(2, 0, 2_000, file(2))),
            ("a", head(1, 0, 1_000, file(1))),
            (own, head(3, 0, 5, file(3))),
        ]);
        assert_eq!(paths(&registers, Names::Exact), ["a", &format!("{own}-2"), own]);
    }

    #[test]
    fn names_that_one_file_system_cannot_tell_apart() {
        let registers = folder([("A.txt", head(1, 0, 1_000, file(1))), ("a.txt", head(2, 0, 2_000, file(2)))]);
        assert_eq!(paths(&registers, Names::Exact), ["A.txt", "a.txt"]);
        assert_eq!(paths(&registers, Names::CaseInsensitive), [&format!("A{TAG}-0101010.txt"), "a.txt"]);
        let spellings = folder([("\u{e9}", head(1, 0, 1_000, file(1))), ("e\u{301}", head(2, 0, 2_000, file(2)))]);
        assert_eq!(paths(&spellings, Names::Exact), ["\u{e9}".to_owned(), format!("\u{e9}{TAG}-0101010")]);
    }

    #[test]
    fn a_file_gives_way_to_a_folder() {
        let registers = folder([("a", head(1, 0, 1_000, file(1))), ("a/b", head(2, 0, 500, file(2)))]);
        assert_eq!(paths(&registers, Names::Exact), [format!("a{TAG}-0101010"), "a/b".to_owned()]);
        let gone = Head { context: registers[&key("a/b")].context(), ..head(3, 0, 1, FolderValue::Deleted) };
        let mut registers = registers.clone();
        registers.get_mut(&key("a/b")).unwrap().merge(gone);
        assert_eq!(paths(&registers, Names::Exact), ["a"]);
    }

    proptest! {
        #[test]
        fn every_value_shows_once_and_no_name_twice(
            said in prop::collection::vec((0usize..6, 0u8..3, 0u64..3, 0u8..4), 0..16),
            insensitive: bool,
        ) {
            let names = if insensitive { Names::CaseInsensitive } else { Names::Exact };
            let keys = ["a", "A", "a/b", "a/B.x", "a.sync-conflict-19700101-000000-0000000", "c"];
            let said = said.into_iter().enumerate();
            let registers = folder(said.map(|(seq, (at, of, ms, value))| (keys[at], head(of, seq as u64, ms, file(value)))));
            let shown = listing(&registers, names);
            let paths: BTreeSet<String> =
                shown.iter().map(|shown| names.fold(shown.path.as_ref().unwrap().as_str())).collect();
            prop_assert_eq!(paths.len(), shown.len());
            let around = |path: &String, folder: &String| path.starts_with(&format!("{folder}/"));
            prop_assert!(!paths.iter().any(|path| paths.iter().any(|folder| around(path, folder))));
            for (key, register) in &registers {
                for head in register.heads() {
                    let FolderValue::File(file) = head.value else { continue };
                    let reached = |shown: &&Shown<'_>| shown.key == key && shown.file.content == file.content;
                    prop_assert_eq!(shown.iter().filter(reached).count(), 1);
                }
            }
        }
    }
}
