//! Bugs that are planted on purpose, to see that the simulation finds them.
//!
//! Only builds with the feature `planted-bugs` have them, and none of those is a release build; there, one can be
//! switched on at a time for the whole process. Everywhere else [`is_planted`] is a constant `false`.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("planted bugs are for tests, never for a release build");

macro_rules! plants {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),* $(,)?) => {
        /// A planted bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Plant {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Plant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on the command line of `larder-sim`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

plants! {
    /// A session that failed accounts for what its peer claimed.
    AccountsThoughBroken = "accounts-though-broken",
    /// The last gap of a peer is not filled.
    LastGapIsLeftOut = "last-gap-left-out",
    /// Two histories of the same length are taken for one.
    TipsAreIgnored = "tips-ignored",
    /// What gossip brought is accounted for.
    GossipAdvancesVector = "gossip-advances-vector",
    /// The vector follows claims instead of what is stored.
    AccountsBeyondStored = "accounts-beyond-stored",
    /// An append is answered before it is durable.
    AnswersBeforeSync = "answers-before-sync",
    /// A segment file is not synced before its rows are committed.
    SegmentIsNotSynced = "segment-not-synced",
    /// Replay leaves out the last frame of a log.
    ReplaySkipsLastFrame = "replay-skips-last-frame",
    /// Of two statements made at the same moment, the one that came last wins.
    StampIgnoresDevice = "stamp-ignores-device",
    /// A delete leaves nothing behind that an older statement could lose against.
    DeleteForgetsContext = "delete-forgets-context",
    /// Roles are not asked at merge.
    PermitsAreIgnored = "permits-ignored",
    /// Statements from the future are merged at once.
    FutureIsMerged = "future-merged",
    /// Statements that waited are never merged.
    WaitingIsForgotten = "waiting-forgotten",
    /// A batch that does not continue the log it is appended to is taken.
    ChainIsNotChecked = "chain-not-checked",
    /// A device does not vouch for what comes back to it of its own log.
    OwnLogIsNotVouchedFor = "own-log-not-vouched-for",
    /// A husk is taken although no checkpoint lets it go.
    HuskIsTakenUnproven = "husk-taken-unproven",
    /// What still counts in batches that a checkpoint lets go is not said again.
    LivingIsLetGo = "living-let-go",
}

#[cfg(feature = "planted-bugs")]
static PLANTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(usize::MAX);

/// Switches one on for the whole process, or all off.
#[cfg(feature = "planted-bugs")]
pub fn plant(plant: Option<Plant>) {
    PLANTED.store(plant.map_or(usize::MAX, |plant| plant as usize), std::sync::atomic::Ordering::SeqCst);
}

/// Whether a bug is switched on.
#[inline]
pub fn is_planted(plant: Plant) -> bool {
    #[cfg(feature = "planted-bugs")]
    return PLANTED.load(std::sync::atomic::Ordering::SeqCst) == plant as usize;
    #[cfg(not(feature = "planted-bugs"))]
    {
        let _ = plant;
        false
    }
}
