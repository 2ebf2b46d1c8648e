//! Which faults a run meets.

/// Classes of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Gossip is lost, duplicated and reordered; streams break off.
    pub loss: bool,
    /// Nodes cannot reach each other, in both directions or in one.
    pub partition: bool,
    /// Nodes crash, lose what was not synced, and come back under the same id.
    pub restart: bool,
}

impl Faults {
    /// All of them.
    pub const ALL: Self = Self { loss: true, partition: true, restart: true };
    /// None of them.
    pub const NONE: Self = Self { loss: false, partition: false, restart: false };

    /// Reads `all`, `none`, or a list such as `loss,restart`.
    ///
    /// # Errors
    /// The word that names no fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::NONE;
        for word in text.split(',') {
            match word {
                "all" => faults = Self::ALL,
                "none" => {}
                "loss" => faults.loss = true,
                "partition" => faults.partition = true,
                "restart" => faults.restart = true,
                other => return Err(format!("'{other}' is no fault: all, none, loss, partition, restart")),
            }
        }
        Ok(faults)
    }
}
