//! The suite that every provider passes, for the abilities that it declares.
//!
//! It works beneath a prefix of its own, so the storage need not be empty, and removes what it made. Providers from outside
//! run it too: `node/examples/custom_provider.rs`.

mod abilities;
mod base;
mod parts;
mod writers;

use super::{ObjectKey, StorageError, StorageProvider, list_all};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::fmt;

/// Why a check does not hold.
#[derive(Debug)]
pub struct Broken(String);

impl From<StorageError> for Broken {
    fn from(error: StorageError) -> Self {
        Self(format!("{error:?}"))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What came of the suite.
#[derive(Debug, Default)]
pub struct Report {
    /// Checks that hold.
    pub passed: Vec<&'static str>,
    /// Checks of abilities that the storage does not declare.
    pub skipped: Vec<&'static str>,
    /// Checks that do not hold, and why.
    pub failed: Vec<(&'static str, Broken)>,
}

impl Report {
    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, broken) in &self.failed {
            writeln!(f, "{check}: {broken}")?;
        }
        write!(f, "{} passed, {} failed, {} skipped", self.passed.len(), self.failed.len(), self.skipped.len())
    }
}

/// Reads a signed address as a stranger would: status, body; of a range where one is given.
pub type Fetch = dyn Fn(&str, Option<std::ops::Range<u64>>) -> BoxFuture<'static, (u16, Bytes)> + Send + Sync;

/// A storage under test.
struct Bench<'a> {
    provider: &'a dyn StorageProvider,
    fetch: Option<&'a Fetch>,
    /// Beneath which all keys are.
    base: String,
}

impl Bench<'_> {
    fn key(&self, name: &str) -> ObjectKey {
        let key = ObjectKey::new(format!("{}/{name}", self.base));
        key.unwrap_or_else(|| unreachable!("the suite's keys are valid: {name}"))
    }

    fn prefix(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<ObjectKey, Broken> {
        let key = self.key(name);
        self.provider.put(&key, bytes.into(), super::PutMode::Replace).await?;
        Ok(key)
    }

    async fn holds(&self, key: &ObjectKey, expected: &[u8]) -> Result<(), Broken> {
        let got = self.provider.get_range(key, None).await.map_err(|error| Broken(format!("{key}: {error:?}")))?;
        hold(got == expected, || format!("{key} holds {} bytes that are not the {} put", got.len(), expected.len()))
    }
}

fn hold(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(otherwise())) }
}

fn same<T: PartialEq + fmt::Debug>(got: T, expected: T, what: &str) -> Result<(), Broken> {
    hold(got == expected, || format!("{what}: {got:?}, not {expected:?}"))
}

/// Bytes without a pattern, others for each seed.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

type Checking<'a> = BoxFuture<'a, Result<(), Broken>>;

/// A check, by which ability it is declared, and what it does.
struct Check {
    name: &'static str,
    applies: fn(&Bench<'_>) -> bool,
    run: for<'a> fn(&'a Bench<'a>) -> Checking<'a>,
}

macro_rules! checks {
    ($($applies:expr => $($module:ident::$check:ident),+;)*) => {
        const CHECKS: &[Check] = &[$($(Check {
            name: stringify!($check),
            applies: $applies,
            run: |bench| Box::pin($module::$check(bench)),
        }),+),*];
    };
}

checks! {
    |_| true => base::usable, base::missing, base::ranges, base::if_absent_and_replace, base::keys_of_every_kind, base::keys_with_semicolons,
        base::listing_in_pages, base::delete, writers::one_of_many_wins, writers::readers_see_whole_objects,
        writers::cancelled_puts_leave_all_or_nothing, parts::objects_of_every_size;
    |bench| bench.provider.multipart().is_some() => parts::nothing_shows_before_it_is_complete,
        parts::given_up_leaves_nothing, parts::goes_on_after_an_interruption, parts::complete_respects_what_is_there;
    |bench| bench.provider.rename().is_some() => abilities::renames;
    |bench| bench.provider.presign().is_some() && bench.fetch.is_some() => abilities::signed_addresses;
    |bench| bench.provider.watch().is_some() => abilities::watches;
    |bench| bench.provider.quota().is_some() => abilities::tells_usage;
    |bench| bench.provider.search().is_some() => abilities::finds_by_words;
}

/// Names of all checks.
pub fn names() -> Vec<&'static str> {
    CHECKS.iter().map(|check| check.name).collect()
}

/// Runs all checks that apply. `fetch` reads signed addresses; without it those are skipped.
pub async fn run<'a>(provider: &'a dyn StorageProvider, fetch: Option<&'a Fetch>) -> Report {
    run_some(provider, fetch, &[]).await
}

/// Runs all checks but those named: for a server that is known not to keep to its own protocol. Say why beside the call.
pub async fn run_some<'a>(provider: &'a dyn StorageProvider, fetch: Option<&'a Fetch>, without: &[&str]) -> Report {
    let mut report = Report::default();
    for check in CHECKS {
        let random: String = crate::keys::random::<6>().iter().map(|byte| format!("{byte:02x}")).collect();
        let bench = Bench { provider, fetch, base: format!("conformance-{random}") };
        if without.contains(&check.name) || !(check.applies)(&bench) {
            report.skipped.push(check.name);
            continue;
        }
        match (check.run)(&bench).await {
            Ok(()) => report.passed.push(check.name),
            Err(broken) => report.failed.push((check.name, broken)),
        }
        if let Err(broken) = clean(&bench).await {
            report.failed.push((check.name, broken));
        }
    }
    report
}

async fn clean(bench: &Bench<'_>) -> Result<(), Broken> {
    let prefix = bench.prefix("");
    super::upload::sweep(bench.provider, &prefix, None).await?;
    for listed in list_all(bench.provider, &prefix).await? {
        bench.provider.delete(&listed.key).await?;
    }
    let left = list_all(bench.provider, &prefix).await?;
    hold(left.is_empty(), || format!("{} objects stay after all were deleted", left.len()))
}
