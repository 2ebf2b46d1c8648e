//! Who may read, write and delete at a location, and who alone deletes in a cloud.
//!
//! These statements are kept for each device that made one; which of them is in force is decided when it is asked for
//! ([`in_force`]), so that a change of roles or of the steward needs no second merge.

use super::{BODY_BYTES_MAX, Stamp};
use crate::{
    bounded::List,
    codec::Wire,
    id::{DeviceId, LocationId},
    membership::Role,
};
use serde::{Deserialize, Serialize};

/// Most devices that one right of one location names.
pub const DEVICES_MAX: usize = 64;

/// Who may do what at a location. Key: `(location, author's device)`. Merge: greatest stamp.
///
/// In force is the latest statement of the location's steward or an admin ([`in_force`]). Without one everybody may do what
/// the role allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Which location.
    pub location: LocationId,
    /// Who gets the bytes of what is there.
    pub read: Whom,
    /// Who stores there, or has something stored there.
    pub write: Whom,
    /// Who deletes there, or has something deleted there.
    pub delete: Whom,
}

impl Wire for Access {
    const MAX_BYTES: usize = BODY_BYTES_MAX;
}

/// The devices that a right is for; never more than their roles allow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    /// All of the group.
    #[default]
    Everyone,
    /// These only.
    Only {
        /// Devices with one of these roles.
        roles: List<Role, 4>,
        /// These devices, whatever their role.
        devices: List<DeviceId, DEVICES_MAX>,
    },
}

/// What a device does at a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Get the bytes of what is there.
    Read,
    /// Store there.
    Write,
    /// Delete there.
    Delete,
}

/// The device that alone deletes objects of a cloud location. Key: `(location, author's device)`. Merge: greatest stamp.
///
/// In force is the latest statement of the steward or an admin ([`in_force`]); without one it is the steward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custodian {
    /// Which location.
    pub location: LocationId,
    /// Who deletes there.
    pub device: DeviceId,
}

impl Wire for Custodian {
    const MAX_BYTES: usize = 64;
}

/// The statement in force of several about one location: the latest one that is believed, in whatever order they come.
///
/// `believed` says whether the author might decide when it said so: the steward of now, or an admin
/// ([`Roster::decides`](crate::membership::Roster::decides)).
pub fn in_force<T>(
    said: impl IntoIterator<Item = (Stamp, T)>,
    believed: impl Fn(&Stamp) -> bool,
) -> Option<(Stamp, T)> {
    said.into_iter().filter(|(stamp, _)| believed(stamp)).max_by_key(|(stamp, _)| *stamp)
}

/// Whether a device may do something at a location where `access` is in force. `role` is its role, `None` when it is no
/// member.
///
/// ```
/// use larder_protocol::{id::DeviceId, membership::Role, record::{Action, permits}};
///
/// let laptop = DeviceId::new([1; 32]);
/// assert!(permits(None, &laptop, Some(Role::Reader), Action::Read));
/// assert!(!permits(None, &laptop, Some(Role::Reader), Action::Write));
/// assert!(!permits(None, &laptop, None, Action::Read));
/// ```
pub fn permits(access: Option<&Access>, device: &DeviceId, role: Option<Role>, action: Action) -> bool {
    let Some(role) = role else { return false };
    let by_role = match action {
        Action::Read => role.may_read(),
        Action::Write | Action::Delete => role.may_write(),
    };
    let named = access.is_none_or(|access| match action {
        Action::Read => access.read.includes(device, role),
        Action::Write => access.write.includes(device, role),
        Action::Delete => access.delete.includes(device, role),
    });
    by_role && named
}

impl Access {
    /// What holds where nobody has said anything: everybody may do what the role allows.
    pub fn open(location: LocationId) -> Self {
        Self { location, read: Whom::Everyone, write: Whom::Everyone, delete: Whom::Everyone }
    }
}

impl Whom {
    fn includes(&self, device: &DeviceId, role: Role) -> bool {
        match self {
            Self::Everyone => true,
            Self::Only { roles, devices } => roles.contains(&role) || devices.contains(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{log::Author, time::Hlc};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ACTIONS: [Action; 3] = [Action::Read, Action::Write, Action::Delete];
    const ROLES: [Role; 4] = [Role::Admin, Role::Writer, Role::Reader, Role::Vault];

    fn device(byte: u8) -> DeviceId {
        DeviceId::new([byte; 32])
    }

    fn whom() -> impl Strategy<Value = Whom> {
        let roles = prop::collection::btree_set(prop::sample::select(&ROLES[..]), 0..4);
        let devices = prop::collection::btree_set(0u8..4, 0..4);
        prop_oneof![
            Just(Whom::Everyone),
            (roles, devices).prop_map(|(roles, devices)| Whom::Only {
                roles: List::truncated(roles),
                devices: List::truncated(devices.into_iter().map(device)),
            }),
        ]
    }

    fn access() -> impl Strategy<Value = Access> {
        (whom(), whom(), whom()).prop_map(|(read, write, delete)| Access {
            location: LocationId::new([7; 16]),
            read,
            write,
            delete,
        })
    }

    proptest! {
        #[test]
        fn a_right_never_goes_beyond_the_role(said in prop::option::of(access()), at in 0u8..4, role in 0usize..4) {
            for action in ACTIONS {
                let allowed = permits(said.as_ref(), &device(at), Some(ROLES[role]), action);
                let open = permits(None, &device(at), Some(ROLES[role]), action);
                prop_assert!(open || !allowed, "{:?} {:?}", ROLES[role], action);
                prop_assert!(!permits(said.as_ref(), &device(at), None, action));
            }
            prop_assert!(!permits(said.as_ref(), &device(at), Some(Role::Reader), Action::Delete));
            prop_assert!(!permits(said.as_ref(), &device(at), Some(Role::Vault), Action::Read));
        }

        #[test]
        fn each_action_goes_by_its_own_list(said in access(), at in 0u8..4, role in 0usize..2) {
            for (action, list) in ACTIONS.into_iter().zip([&said.read, &said.write, &said.delete]) {
                let expected = match list {
                    Whom::Everyone => true,
                    Whom::Only { roles, devices } => {
                        roles.iter().any(|listed| *listed == ROLES[role])
                            || devices.iter().any(|listed| *listed == device(at))
                    }
                };
                prop_assert_eq!(permits(Some(&said), &device(at), Some(ROLES[role]), action), expected);
            }
            let open = Access::open(said.location);
            for action in ACTIONS {
                prop_assert!(permits(Some(&open), &device(at), Some(ROLES[role]), action));
            }
        }

        #[test]
        fn the_latest_believed_statement_is_in_force_in_any_order(
            said in prop::collection::btree_map((0u64..5, 0u8..4), any::<u8>(), 0..8),
            believed in prop::collection::btree_set(0u8..4, 0..4),
        ) {
            let stamp = |(hlc, by): (u64, u8)| Stamp {
                hlc: Hlc(hlc),
                author: Author { device: device(by), incarnation: 0 },
                seq: 0,
            };
            let believes = |believed: &BTreeSet<u8>, stamp: &Stamp| believed.contains(&stamp.device().as_bytes()[0]);
            let all: Vec<(Stamp, u8)> = said.iter().map(|(at, value)| (stamp(*at), *value)).collect();
            let found = in_force(all.iter().copied(), |stamp| believes(&believed, stamp));
            prop_assert_eq!(found, in_force(all.iter().rev().copied(), |stamp| believes(&believed, stamp)));
            let expected = said.iter().rev().find(|((_, by), _)| believed.contains(by));
            prop_assert_eq!(found, expected.map(|(at, value)| (stamp(*at), *value)));
        }
    }
}
