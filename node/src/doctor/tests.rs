//! What no story can provoke from outside.

use super::*;
use crate::{
    catalog::Catalog,
    keys::MembershipStore,
    node::{catalog_options, now},
    setup,
};
use larder_protocol::{
    bounded::List,
    membership::{Cuts, Role},
    record::{Device, Name},
};
use redb::{Database, ReadableTable, TableDefinition};
use tempfile::TempDir;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

fn founded() -> (TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::under(&dir.path().join("home"));
    setup::init(&home, "laptop", "home").unwrap();
    let Belongings { settings, members, identity, .. } = Belongings::load(&home).unwrap();
    let (catalog, _) = Catalog::open(home.catalog(), identity, catalog_options(&settings, &members)).unwrap();
    let device = Device { name: Name::new("laptop").unwrap(), control: List::default(), data: List::default() };
    catalog.append(vec![device.into()], Vec::new(), now()).unwrap();
    (dir, home)
}

#[track_caller]
fn kinds(home: &Home) -> Vec<FindingKind> {
    examine(home, false).unwrap().findings.into_iter().map(|finding| finding.kind).collect()
}

/// Every row is as it was written, and says something that the log does not: only merging the log again tells.
#[test]
fn a_database_that_says_something_else_than_its_log() {
    const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta-1");
    let (_dir, home) = founded();
    assert_eq!(kinds(&home), []);
    let database = Database::open(home.catalog().join("catalog.redb")).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut meta = txn.open_table(META).unwrap();
        let mut row = meta.get("totals").unwrap().unwrap().value().to_vec();
        row[8] ^= 1;
        let tag = xxh3_64_with_seed(&row[8..], xxh3_64_with_seed(b"totals", xxh3_64(b"meta-1")));
        row[..8].copy_from_slice(&tag.to_le_bytes());
        meta.insert("totals", row.as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(database);
    assert_eq!(kinds(&home), [FindingKind::CatalogDiffers]);
}

/// A device is out, and no admin has begun an epoch without it yet: a writer can only say so.
#[test]
fn an_epoch_that_has_to_begin() {
    let (_dir, home) = founded();
    let Belongings { keys, members, .. } = Belongings::load(&home).unwrap();
    let other = DeviceKeys::generate();
    let name = Name::new("nas").unwrap();
    members.admit(other.enrolment(), &name, Role::Writer).unwrap();
    assert_eq!(kinds(&home), []);
    let mut log = members.log();
    log.remove(keys.signing(), other.device(), Cuts::default()).unwrap();
    MembershipStore::new(&home.keys(), keys.device()).save(&log).unwrap();
    assert_eq!(kinds(&home), [FindingKind::RotationPending]);
}
