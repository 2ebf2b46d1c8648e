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
            if let Some(rule) = in_force(said, |stamp| decides(&roster, steward.as_ref(), stamp)) {
                rules.insert(location, rule);
            }
        }
        Ok(Self { rules, roster })
    }

    /// What is in force for a location, and who said it when; `None` where everybody may do what the role allows.
    pub(crate) fn of(&self, location: &LocationId) -> Option<&(Stamp, Access)> {
        self.rules.get(location)
    }

    /// Whether the rules of a location let a device do something there. Where there are none, roles decide elsewhere.
    pub(crate) fn permit(&self, location: &LocationId, device: &DeviceId, action: Action) -> bool {
        self.rules.get(location).is_none_or(|(_, access)| {
            permits(Some(access), device, self.roster.member(device).map(|member| member.role), action)
        })
    }
}

/// Whether a statement about a location counts: its author is the steward, or was an admin.
fn decides(roster: &Roster, steward: Option<&DeviceId>, stamp: &Stamp) -> bool {
    steward == Some(&stamp.device()) || roster.decides(&stamp.author, stamp.seq)
}

/// The device that alone deletes in a location.
pub(crate) fn custodian(members: &Members, snapshot: &Snapshot, row: &KnownLocation) -> Result<DeviceId, CatalogError> {
    let (roster, steward) = (members.roster(), row.steward());
    let said = snapshot.custodians()?.into_iter().filter(|known| known.value.location == row.location.id);
    let said = said.map(|known| (known.stamp, known.value.device));
    let chosen = in_force(said, |stamp| decides(&roster, Some(&steward), stamp));
    Ok(chosen.map_or(steward, |(_, device)| device))
}
