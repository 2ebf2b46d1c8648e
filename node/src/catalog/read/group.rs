//! What the group said of itself: locations, devices, profiles and wants.

use super::{
    super::{
        CatalogError,
        tables::{
            ACCESS, AUDIT_HEADS, CUSTODIANS, DEVICES, GATEWAYS, LOCATION_STATES, LOCATIONS, OUTCOMES, PENDING,
            PROFILES, WANTS,
        },
    },
    Known, KnownLocation, Snapshot,
};
use larder_protocol::{
    id::{DeviceId, LocationId, WantId},
    record::{Access, AuditHead, Custodian, Device, Gateway, GatewayState, Location, Profile, Want, WantOutcome},
};
use redb::ReadableTableMetadata;
use std::collections::BTreeMap;

impl Snapshot {
    /// All locations that are not forgotten, by id.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn locations(&self) -> Result<Vec<KnownLocation>, CatalogError> {
        let said = self.locations_said()?.into_iter().filter(|known| !known.value.removed);
        said.map(|known| self.known_location(known)).collect()
    }

    /// What was said last of each location, also of those that are forgotten, by id.
    pub(in crate::catalog) fn locations_said(&self) -> Result<Vec<Known<Location>>, CatalogError> {
        Ok(self.statements(LOCATIONS)?.into_iter().map(|(_, known)| known).collect())
    }

    pub(super) fn known_location(&self, known: Known<Location>) -> Result<KnownLocation, CatalogError> {
        let id = known.value.id;
        let number = self.location_number(&id)?.ok_or_else(|| CatalogError::damaged("location-numbers-1"))?;
        let totals = self.location_totals(number)?;
        let state = self.statement(LOCATION_STATES, id.as_bytes())?;
        Ok(KnownLocation { location: known.value, stamp: known.stamp, state, files: totals.files, bytes: totals.bytes })
    }

    /// The location with an id.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn location(&self, id: &LocationId) -> Result<Option<KnownLocation>, CatalogError> {
        self.statement(LOCATIONS, id.as_bytes())?.map(|known| self.known_location(known)).transpose()
    }

    /// Locations that are called so and not removed; an id in hex names one as well. Several may share a name.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn locations_named(&self, name: &str) -> Result<Vec<KnownLocation>, CatalogError> {
        if let Ok(id) = name.parse::<LocationId>()
            && let Some(location) = self.location(&id)?
        {
            return Ok(vec![location]);
        }
        let mut named = self.locations()?;
        named.retain(|known| !known.location.removed && known.location.name.as_str() == name);
        Ok(named)
    }

    /// What devices said last of their way to any cloud location; those that withdrew are left out.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn gateways(&self) -> Result<Vec<Known<Gateway>>, CatalogError> {
        let all = self.statements::<Gateway>(GATEWAYS)?.into_iter().map(|(_, known)| known);
        Ok(all.filter(|known| known.value.state != GatewayState::Withdrawn).collect())
    }

    /// What each device said last of who may do what at any location, by whomever.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn access(&self) -> Result<Vec<Known<Access>>, CatalogError> {
        Ok(self.statements(ACCESS)?.into_iter().map(|(_, known)| known).collect())
    }

    /// What each device said last of who alone deletes in any cloud location, by whomever.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn custodians(&self) -> Result<Vec<Known<Custodian>>, CatalogError> {
        Ok(self.statements(CUSTODIANS)?.into_iter().map(|(_, known)| known).collect())
    }

    /// All devices that described themselves.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn devices(&self) -> Result<BTreeMap<DeviceId, Device>, CatalogError> {
        let all = self.statements::<Device>(DEVICES)?;
        all.into_iter()
            .map(|(key, known)| {
                let id: [u8; 32] = key.try_into().map_err(|_| CatalogError::damaged("devices-1"))?;
                Ok((DeviceId::new(id), known.value))
            })
            .collect()
    }

    /// What a device says of itself.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn device(&self, id: &DeviceId) -> Result<Option<Known<Device>>, CatalogError> {
        self.statement(DEVICES, id.as_bytes())
    }

    /// How far a device's audit log went at least, as it said itself.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn audit_head(&self, id: &DeviceId) -> Result<Option<Known<AuditHead>>, CatalogError> {
        self.statement(AUDIT_HEADS, id.as_bytes())
    }

    /// Profiles that the group shares and that are not removed, by name; without the built-in ones.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn profiles(&self) -> Result<Vec<Profile>, CatalogError> {
        let all = self.statements::<Profile>(PROFILES)?.into_iter().map(|(_, known)| known.value);
        Ok(all.filter(|profile| !profile.removed).collect())
    }

    /// The profile of a name.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn profile(&self, name: &str) -> Result<Option<Known<Profile>>, CatalogError> {
        self.statement(PROFILES, name.as_bytes())
    }

    /// Wants for a location that have no outcome yet.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn wants_for(&self, location: &LocationId) -> Result<Vec<Known<Want>>, CatalogError> {
        let (mut from, mut until) = ([0; 32], [0xff; 32]);
        from[..16].copy_from_slice(location.as_bytes());
        until[..16].copy_from_slice(location.as_bytes());
        let mut wants = Vec::new();
        for row in self.txn.open_table(PENDING)?.range::<&[u8; 32]>(&from..=&until)? {
            wants.extend(self.statement(WANTS, &row?.0.value()[16..])?);
        }
        Ok(wants)
    }

    /// How many wants have no outcome yet.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn wants_pending(&self) -> Result<u64, CatalogError> {
        Ok(self.txn.open_table(PENDING)?.len()?)
    }

    /// A want.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn want(&self, id: &WantId) -> Result<Option<Known<Want>>, CatalogError> {
        self.statement(WANTS, id.as_bytes())
    }

    /// How a want ended.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn want_outcome(&self, id: &WantId) -> Result<Option<Known<WantOutcome>>, CatalogError> {
        self.statement(OUTCOMES, id.as_bytes())
    }
}
