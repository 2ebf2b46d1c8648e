//! The shape of the overlay on which gossip travels; the node's gossipsub and the simulation's model take it from here.

/// How many neighbours a device passes news on to (gossipsub v1.1, parameters `D`, `D_low`, `D_high` and the least
/// number of those that it dialled itself). A group is small and its devices know each other: what a device says first
/// goes to all that it is connected to, so three neighbours are enough for what it passes on.
/// <https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mesh {
    /// Neighbours that a device looks for.
    pub wanted: usize,
    /// With fewer than these it looks for more.
    pub low: usize,
    /// With more than these it lets some go.
    pub high: usize,
    /// Neighbours that it dialled itself, at least: nobody can surround it by dialling it.
    pub dialled: usize,
}

/// The mesh of a group.
pub const MESH: Mesh = Mesh { wanted: 3, low: 2, high: 8, dialled: 1 };

#[cfg(test)]
mod tests {
    use super::*;

    /// What gossipsub's builder demands, and checks only for topics that are configured one by one.
    #[test]
    fn the_mesh_is_one_that_gossipsub_can_keep() {
        let Mesh { wanted, low, high, dialled } = MESH;
        assert!(dialled <= low && low <= wanted && wanted <= high && 2 * dialled <= wanted);
    }
}
