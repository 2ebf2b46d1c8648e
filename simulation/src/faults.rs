//! Classes of faults: which ones a run asks for, and how often each had an effect.

use std::{fmt, str::FromStr};

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal in $family:literal),* $(,)?) => {
        /// A class of faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Fault {
            /// All classes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The family that it belongs to, which names all its classes at once.
            pub const fn family(self) -> &'static str {
                match self {
                    $(Self::$variant => $family,)*
                }
            }
        }
    };
}

faults! {
    /// Gossip does not arrive.
    Loss = "loss" in "network",
    /// Gossip arrives twice.
    Duplicate = "duplicate" in "network",
    /// Gossip is overtaken by what was said later.
    Reorder = "reorder" in "network",
    /// Streams break off in the middle of a session.
    Break = "break" in "network",
    /// The group falls into halves that do not reach each other.
    Partition = "partition" in "network",
    /// One half hears the other, and is not heard.
    OneWay = "one-way" in "network",
    /// Some devices are far away, or on mobile networks.
    Distance = "distance" in "network",
    /// Some devices cannot be dialled.
    Nat = "nat" in "network",
    /// A process is killed; what it wrote stays with the system.
    Crash = "crash" in "disk",
    /// The power goes at any effect on the disk, also during recovery.
    Power = "power" in "disk",
    /// What was not synced is lost when the power goes.
    Lost = "lost" in "disk",
    /// What was not synced is there in part when the power goes.
    Torn = "torn" in "disk",
    /// There is no room left for a while.
    Full = "full" in "disk",
    /// The database is gone or an old copy; the log is whole.
    Rebuild = "rebuild" in "disk",
    /// A whole device is restored from a backup.
    Rollback = "rollback" in "identity",
    /// A device is copied, and both copies run.
    Clone = "clone" in "identity",
    /// A clock jumps back or ahead.
    Jump = "jump" in "clocks",
    /// A clock goes too fast or too slow.
    Drift = "drift" in "clocks",
    /// A clock is so far ahead that what is said by it must wait.
    Future = "future" in "clocks",
    /// A drive is unplugged, and plugged in again there or at another device.
    Unplug = "unplug" in "places",
    /// A member's role changes, and not everybody hears of it at once.
    Roles = "roles" in "places",
    /// Devices let go what is superseded, and compact their logs.
    Compact = "compact" in "places",
    /// A member signs two histories and shows each to another part of the group.
    Equivocate = "equivocate" in "hostile",
    /// A member claims what it does not give.
    Withhold = "withhold" in "hostile",
    /// A member announces without end.
    Flood = "flood" in "hostile",
    /// A member dates its statements into the future.
    FutureMember = "future-member" in "hostile",
    /// A member sends changed bytes.
    BadBytes = "bad-bytes" in "hostile",
    /// A member claims that a device's own log goes on where it does not.
    FalseClaim = "false-claim" in "hostile",
    /// A member falls silent in the middle of a session.
    Stall = "stall" in "hostile",
    /// A member passes only headers on of batches that still count.
    Strip = "strip" in "hostile",
}

/// Some classes of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults(u64);

impl Faults {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// All of them.
    pub fn all() -> Self {
        Fault::ALL.iter().copied().collect()
    }

    /// Whether a class is asked for.
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u64) != 0
    }

    /// These without one class.
    #[must_use]
    pub const fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u64))
    }

    /// The classes, in order.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |fault| self.has(*fault))
    }

    /// Whether a class of a family is asked for.
    pub fn has_family(self, family: &str) -> bool {
        self.iter().any(|fault| fault.family() == family)
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self(faults.into_iter().fold(0, |set, fault| set | 1 << fault as u64))
    }
}

/// Reads `all`, `none`, or a list of classes and families; `-` before a name takes it away: `all,-hostile`.
impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (away, name) = match word.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, word),
            };
            let named = |fault: &Fault| name == "all" || fault.name() == name || fault.family() == name;
            let named: Self = Fault::ALL.iter().copied().filter(named).collect();
            if named == Self::NONE && name != "none" {
                let known: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
                return Err(format!(
                    "'{name}' is no fault: all, none, network, disk, identity, clocks, places, hostile, {}",
                    known.join(", ")
                ));
            }
            faults = Self(if away { faults.0 & !named.0 } else { faults.0 | named.0 });
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("all");
        }
        if *self == Self::NONE {
            return f.write_str("none");
        }
        let names: Vec<&str> = self.iter().map(Fault::name).collect();
        f.write_str(&names.join(","))
    }
}

/// How often each class had an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired(Vec<u64>);

impl Default for Fired {
    fn default() -> Self {
        Self(vec![0; Fault::ALL.len()])
    }
}

impl Fired {
    /// Notes that a fault had an effect.
    pub fn note(&mut self, fault: Fault) {
        self.add(fault, 1);
    }

    /// Notes several at once.
    pub fn add(&mut self, fault: Fault, count: u64) {
        self.0[fault as usize] += count;
    }

    /// How often a class had an effect.
    pub fn get(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds what another run counted.
    pub fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(to, from)| *to += from);
    }

    /// The classes that were asked for and never had an effect.
    pub fn never(&self, asked: Faults) -> Vec<Fault> {
        asked.iter().filter(|fault| self.get(*fault) == 0).collect()
    }
}

impl fmt::Display for Fired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fired: Vec<String> = Fault::ALL
            .iter()
            .filter(|fault| self.get(**fault) > 0)
            .map(|fault| format!("{} {}", fault.name(), self.get(*fault)))
            .collect();
        f.write_str(&if fired.is_empty() { "none".to_owned() } else { fired.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_back() {
        for text in ["all", "none", "loss", "loss,torn,clone", "crash,power,lost,torn,full,rebuild"] {
            assert_eq!(text.parse::<Faults>().unwrap().to_string(), text);
        }
        let some: Faults = "all,-hostile,-clone".parse().unwrap();
        assert!(some.has(Fault::Rollback) && !some.has(Fault::Clone) && !some.has_family("hostile"));
        assert!("thunder".parse::<Faults>().unwrap_err().contains("no fault"));
    }
}
