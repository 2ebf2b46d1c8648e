//! Who may do what at which location, as the catalog and the roster have it now.

use super::{Members, Places};
use crate::catalog::{CatalogError, KnownLocation, Snapshot};
use larder_protocol::{
    id::{DeviceId, LocationId},
    membership::Roster,
    record::{Access, Action, Stamp, in_force, permits},
};
use std::{collections::BTreeMap, sync::Arc};

/// The rules in force, read once.
pub(crate) struct Rights {
    rules: BTreeMap<LocationId, (Stamp, Access)>,
    roster: Arc<Roster>,
}

impl Rights {
    /// Reads what is in force. A place that is proven to be here has this device for its steward, whoever else announces it.
    pub(crate) fn read(members: &Members, places: &Places, snapshot: &Snapshot) -> Result<Self, CatalogError> {
        let roster = members.roster();
        let mut said: BTreeMap<LocationId, Vec<(Stamp, Access)>> = BTreeMap::new();
        for known in snapshot.access()? {
            said.entry(known.value.location).or_default().push((known.stamp, known.value));
        }
        let mut rules = BTreeMap::new();
        for (location, said) in said {
            let announced = snapshot.location(&location)?.map(|row| row.steward());
            let steward = match places.get(&location) {
                Some(place) if announced != Some(places.device()) && place.is_proven(places) => Some(places.device()),
                _ => announced,
            };
            if let Some(rule) = decided(&said, |stamp| by_admin(&roster, stamp), steward.as_ref()) {
                rules.insert(location, rule);
            }
        }
        Ok(Self { rules, roster })
    }

    /// What is in force for a location, and who said it when; `None` where everybody may do what the role allows.
    pub(crate) fn of(&self, location: &LocationId) -> Option<&(Stamp, Access)> {
        self.rules.get(location)
    }

    /// Whether an admin has spoken about a location: from then on only admins do.
    pub(crate) fn is_admins(&self, location: &LocationId) -> bool {
        self.rules.get(location).is_some_and(|(stamp, _)| by_admin(&self.roster, stamp))
    }

    /// Whether the rules of a location let a device do something there. Where there are none, roles decide elsewhere.
    pub(crate) fn permit(&self, location: &LocationId, device: &DeviceId, action: Action) -> bool {
        self.rules.get(location).is_none_or(|(_, access)| {
            permits(Some(access), device, self.roster.member(device).map(|member| member.role), action)
        })
    }
}

/// Whether who made a statement was an admin then.
fn by_admin(roster: &Roster, stamp: &Stamp) -> bool {
    roster.decides(&stamp.author, stamp.seq)
}

/// The statement about a location that is in force: the latest one of an admin, or where none has spoken, of the steward.
///
/// A writer becomes the steward of a cloud location by announcing it anew. What an admin has said stays in force all the same.
fn decided<T: Clone>(
    said: &[(Stamp, T)],
    by_admin: impl Fn(&Stamp) -> bool,
    steward: Option<&DeviceId>,
) -> Option<(Stamp, T)> {
    in_force(said.iter().cloned(), by_admin)
        .or_else(|| in_force(said.iter().cloned(), |stamp| steward == Some(&stamp.device())))
}

/// The device that alone deletes in a location, and whether an admin has chosen it.
pub(crate) fn custodian(
    members: &Members,
    snapshot: &Snapshot,
    row: &KnownLocation,
) -> Result<(DeviceId, bool), CatalogError> {
    let (roster, steward) = (members.roster(), row.steward());
    let said = snapshot.custodians()?.into_iter().filter(|known| known.value.location == row.location.id);
    let said: Vec<(Stamp, DeviceId)> = said.map(|known| (known.stamp, known.value.device)).collect();
    let chosen = decided(&said, |stamp| by_admin(&roster, stamp), Some(&steward));
    Ok(chosen.map_or((steward, false), |(stamp, device)| (device, by_admin(&roster, &stamp))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_protocol::{log::Author, time::Hlc};
    use proptest::prelude::*;

    const ADMIN: u8 = 0;

    fn device(byte: u8) -> DeviceId {
        DeviceId::new([byte; 32])
    }

    fn is_admin(stamp: &Stamp) -> bool {
        stamp.device() == device(ADMIN)
    }

    proptest! {
        /// Whatever else is said and whoever becomes the steward: once an admin has spoken its latest word is in force, and
        /// before that the steward's.
        #[test]
        fn who_announces_a_location_anew_changes_nothing_that_an_admin_has_said(
            said in prop::collection::btree_map((0u64..6, 0u8..4), any::<u8>(), 0..8),
            steward in 0u8..4,
        ) {
            let stamp = |(hlc, by): (u64, u8)| {
                Stamp { hlc: Hlc(hlc), author: Author { device: device(by), incarnation: 0 }, seq: 0 }
            };
            let all: Vec<(Stamp, u8)> = said.iter().map(|(at, value)| (stamp(*at), *value)).collect();
            let last = |who: u8| said.iter().rev().find(|((_, by), _)| *by == who).map(|(at, value)| (stamp(*at), *value));
            let found = decided(&all, is_admin, Some(&device(steward)));
            prop_assert_eq!(found, last(ADMIN).or_else(|| last(steward)));
            let backwards: Vec<_> = all.iter().rev().copied().collect();
            prop_assert_eq!(found, decided(&backwards, is_admin, Some(&device(steward))));
            prop_assert_eq!(decided(&all, is_admin, None), last(ADMIN));
        }
    }
}
