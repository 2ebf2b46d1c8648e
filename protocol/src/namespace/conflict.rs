//! Names of conflict copies, as every device computes them.

use crate::{
    path::{NfcPath, RelPath},
    record::Stamp,
};

/// Longest name in bytes that common file systems store.
const FILE_NAME_BYTES_MAX: usize = 255;
/// Longest extension in bytes that is kept as one; a longer one is part of the stem.
const EXTENSION_BYTES_MAX: usize = 32;

/// The path of a conflict copy: `stem.sync-conflict-YYYYMMDD-HHMMSS-DEVICE.ext` in the same folder, after the operation
/// whose value it is. Time is UTC, the device the first seven digits of its id; `again` is 1, or more when that name is
/// taken, which adds `-2` and so on.
///
/// Only the last part after a dot is an extension, and not that of a name that begins with its only dot. A stem that is too
/// long is cut at its end, between characters. `None` when the folder's path is so long that no name fits.
pub fn conflict_path(key: &NfcPath, stamp: &Stamp, again: u32) -> Option<RelPath> {
    let (folder, name) = key.path().split();
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && (1..=EXTENSION_BYTES_MAX).contains(&extension.len()) => {
            (stem, &name[stem.len()..])
        }
        _ => (name, ""),
    };
    let device = stamp.device().to_string();
    let again = if again > 1 { format!("-{again}") } else { String::new() };
    let tail = format!(".sync-conflict-{}-{}{again}{extension}", utc(stamp.hlc.millis()), &device[..7]);
    let mut stem = stem;
    loop {
        let name = format!("{stem}{tail}");
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        // The limits of a path, then that of a file system, which sees no escapes.
        if let Ok(path) = RelPath::new(path)
            && path.to_bytes().rsplit(|byte| *byte == b'/').next().is_none_or(|name| name.len() <= FILE_NAME_BYTES_MAX)
        {
            return Some(path);
        }
        let (last, _) = stem.char_indices().next_back()?;
        stem = &stem[..last];
    }
}

/// `YYYYMMDD-HHMMSS` of milliseconds since 1970. H. Hinnant, "chrono-compatible low-level date algorithms".
fn utc(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::{super::register::tests::head, *};
    use crate::{
        path::{NAME_BYTES_MAX, PATH_BYTES_MAX},
        record::FolderValue,
    };
    use proptest::prelude::*;

    /// 2026-08-29 12:34:56.789 UTC.
    const MS: u64 = 1_788_006_896_789;
    const TAG: &str = ".sync-conflict-20260829-123456-0707070";

    fn key(text: &str) -> NfcPath {
        NfcPath::new(RelPath::new(text).unwrap()).unwrap()
    }

    fn named(text: &str, again: u32) -> Option<String> {
        let stamp = head(7, 0, MS, FolderValue::Deleted).stamp;
        conflict_path(&key(text), &stamp, again).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "19700101-000000"),
            (951_782_399_999, "20000228-235959"),
            (951_782_400_000, "20000229-000000"),
            (4_107_542_400_000, "21000301-000000"),
            (MS, "20260829-123456"),
            ((1 << 48) - 1, "108890802-053150"),
        ] {
            assert_eq!(utc(ms), text, "{ms}");
        }
    }

    #[test]
    fn names_of_every_shape() {
        for (name, stem, extension) in [
            ("a.txt", "a", ".txt"),
            ("x/y/a.txt", "x/y/a", ".txt"),
            ("a.tar.gz", "a.tar", ".gz"),
            ("Makefile", "Makefile", ""),
            (".bashrc", ".bashrc", ""),
            (".config.toml", ".config", ".toml"),
            ("dot.", "dot.", ""),
            ("été.jpg", "été", ".jpg"),
            ("raw\u{effe}.bin", "raw\u{effe}", ".bin"),
        ] {
            assert_eq!(named(name, 1).unwrap(), format!("{stem}{TAG}{extension}"));
            assert_eq!(named(name, 2).unwrap(), format!("{stem}{TAG}-2{extension}"));
        }
        let long = format!("a.{}", "e".repeat(40));
        assert_eq!(named(&long, 1).unwrap(), format!("{long}{TAG}"));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let name = named(&format!("{}.txt", "é".repeat(125)), 1).unwrap();
        assert_eq!(name, format!("{}{TAG}.txt", "é".repeat(106)));
        assert!(name.len() <= 255);
        let folder = vec!["d".repeat(255); 16].join("/");
        assert_eq!(named(&format!("{}/a", &folder[..PATH_BYTES_MAX - 2]), 1), None);
        // Bytes that are not UTF-8 take three times the room as text, but not in the file system.
        let raw = "\u{effe}".repeat(NAME_BYTES_MAX / 3);
        assert_eq!(named(&raw, 1).unwrap().matches('\u{effe}').count(), 255 - TAG.len());
    }

    proptest! {
        #[test]
        fn any_name_has_a_copy_beside_it(name in prop::collection::vec(1u8.., 1..255), again in 1u32..20) {
            if let Ok(path) = RelPath::child(None, &name).and_then(|path| NfcPath::of(&path)) {
                let stamp = head(7, 0, MS, FolderValue::Deleted).stamp;
                let copy = conflict_path(&path, &stamp, again).unwrap();
                prop_assert!(copy.to_bytes().len() <= FILE_NAME_BYTES_MAX);
                prop_assert!(NfcPath::new(copy.clone()).is_ok());
                prop_assert_ne!(&copy, path.path());
            }
        }
    }
}
