//! What users do at machines, and what happens to clocks, drives and roles.

use super::{Event, SECOND, World, broken};
use crate::{faults::Fault, oracle::Broken, workload};
use larder_node::catalog::{AppendError, Appended, Compaction};
use larder_protocol::{
    log::SealedBatch,
    record::{Record, StorageState},
    time::Timestamp,
};

/// Operations that a log must have before it is compacted: few, so that it happens often.
const COMPACT_OPS: u64 = 20;

impl World {
    /// Says something at a machine; `false` when it could not be said.
    fn say(&mut self, number: usize, records: Vec<Record>) -> Result<bool, Broken> {
        let now = self.now(number);
        let Some(catalog) = self.machines[number].catalog() else { return Ok(false) };
        self.touched.push(number);
        let (own, count) = self.machines[number].acknowledged;
        // The log may already be longer than was acknowledged, by what was under way when the power went.
        let stored = self.machines[number].view.as_ref().map_or(0, |view| view.stored(&own)).max(count);
        self.truth.attempt(own, stored + records.len() as u64);
        match catalog.append(records.clone(), Vec::new(), now.wall) {
            Ok(appended) => {
                self.acknowledge(number, &appended)?;
                self.intents.note(number, &records, true, appended.next_seq);
                if self.machines[number].disk.is_dead() {
                    self.lose_power(number)?;
                } else {
                    self.publish(number)?;
                }
                Ok(true)
            }
            Err(AppendError::Catalog(error)) => {
                self.intents.note(number, &records, false, stored);
                self.suffer(number, &error)?;
                Ok(false)
            }
            // A member that was made a reader is told so, and says nothing.
            Err(AppendError::NotPermitted { .. }) => Ok(false),
            Err(error) => Err(broken(error)),
        }
    }

    /// An append was answered: from now on it must stay.
    pub(super) fn acknowledge(&mut self, number: usize, appended: &Appended) -> Result<(), Broken> {
        let machine = &mut self.machines[number];
        if let Some((told, count)) = machine.told
            && told.incarnation == appended.author.incarnation
            && appended.first_seq < count
            && !self.truth.is_forked(&appended.author)
        {
            return Err(Broken(format!(
                "node {number} says operation {} of {} anew, although a peer had told it of {count}",
                appended.first_seq, appended.author
            )));
        }
        machine.acknowledged = (appended.author, appended.next_seq);
        self.outcome.operations += appended.next_seq - appended.first_seq;
        for batch in &appended.batches {
            self.learn(number, batch)?;
        }
        self.spread.said(appended.author, appended.next_seq, self.scheduler.now_ns());
        self.note("append", number, &appended.next_seq.to_le_bytes());
        Ok(())
    }

    /// Learns of a batch that a machine has signed.
    pub(super) fn learn(&mut self, number: usize, batch: &SealedBatch) -> Result<(), Broken> {
        if self.truth.is_husk(batch) {
            return Ok(());
        }
        if self.machines[number].provisional && !self.truth.is_said(batch) {
            self.truth.learn_unsaid(batch)?;
            self.machines[number].unsaid.push(batch.clone());
            return Ok(());
        }
        let wall = self.true_wall();
        self.truth.learn(batch, wall).map(|_| ())
    }

    /// A restored machine has asked the group: what it said meanwhile is said now, unless it was moved elsewhere. When it
    /// has asked who knows most of its log, nothing of that is in a log that others know otherwise.
    pub(super) fn settle(&mut self, number: usize, moved: bool, asked: bool) -> Result<(), Broken> {
        self.machines[number].provisional = false;
        let (unsaid, wall) = (std::mem::take(&mut self.machines[number].unsaid), self.true_wall());
        let device = self.machines[number].device();
        let copied = self.machines.iter().filter(|machine| machine.device() == device).count() > 1;
        let known = self.truth.is_device_forked(&device);
        for batch in unsaid.iter().filter(|_| !moved) {
            self.truth.learn(batch, wall)?;
        }
        if asked && !copied && !known && self.truth.is_device_forked(&device) {
            return Err(Broken(format!(
                "node {number} was restored, has asked, and goes on in a log that others know"
            )));
        }
        Ok(())
    }

    /// A machine says which places it has.
    pub(super) fn announce_places(&mut self, number: usize) -> Result<bool, Broken> {
        let here = self.places.iter().filter(|place| place.at == Some(number));
        let records = here.map(workload::Place::announcement).collect();
        self.say(number, records)
    }

    pub(super) fn append(&mut self, number: usize) -> Result<(), Broken> {
        self.mount_again(number)?;
        if self.machines[number].running.is_none() || self.machines[number].unmounted {
            return Ok(());
        }
        let at = Some(self.machines[number].copy_of.unwrap_or(number));
        let here: Vec<usize> = (0..self.places.len()).filter(|it| self.places[*it].at == at).collect();
        let Some(place) = here.get(self.rng.index(here.len().max(1))).copied() else { return Ok(()) };
        let wall = self.now(number).wall;
        let records = self.places[place].entries(&mut self.rng, wall);
        self.say(number, records).map(|_| ())
    }

    pub(super) fn change_setting(&mut self, number: usize) -> Result<(), Broken> {
        let record = workload::setting(&mut self.rng);
        self.say(number, vec![record]).map(|_| ())
    }

    /// Sets a clock ahead of true time by so much.
    pub(super) fn jump(&mut self, number: usize, offset_ms: i64) -> Result<(), Broken> {
        if !self.healing {
            self.machines[number].clock.offset_ms = offset_ms;
            self.fire(Fault::Jump);
        }
        self.note("jump", number, &offset_ms.to_le_bytes());
        Ok(())
    }

    /// Takes a drive away from its machine, and plans where it comes next.
    pub(super) fn unplug(&mut self, place: usize) -> Result<(), Broken> {
        let Some(number) = self.places[place].at.take() else { return Ok(()) };
        self.fire(Fault::Unplug);
        let seen: Timestamp = self.now(number).wall;
        let record = self.places[place].state(StorageState::Offline, seen);
        self.say(number, vec![record])?;
        let next = self.any_running_honest().unwrap_or(number);
        let delay = SECOND + self.rng.below(30 * SECOND);
        self.scheduler.after(delay, Event::Plug(place, next));
        Ok(())
    }

    fn any_running_honest(&mut self) -> Option<usize> {
        let fit = |it: &usize| self.machines[*it].running.is_some() && *it < self.scenario.nodes;
        let running: Vec<usize> = self.honest().filter(fit).collect();
        (!running.is_empty()).then(|| running[self.rng.index(running.len())])
    }

    /// Plugs a drive in: its signature counts the mount before anything is said of it.
    pub(super) fn plug(&mut self, place: usize, number: usize) -> Result<(), Broken> {
        if self.machines[number].retired || self.machines[number].running.is_none() {
            if !self.healing {
                self.scheduler.after(10 * SECOND, Event::Plug(place, number));
            }
            return Ok(());
        }
        self.places[place].epoch += 1;
        if self
            .machines
            .iter()
            .enumerate()
            .any(|(other, it)| other != number && it.device() == self.machines[number].device())
            || self.roles.readers.contains_key(&self.machines[number].device())
        {
            self.places[place].contested = true;
        }
        let now = self.now(number).wall;
        let records = vec![self.places[place].announcement(), self.places[place].state(StorageState::Present, now)];
        if self.say(number, records)? {
            self.places[place].at = Some(number);
        } else if !self.healing {
            self.scheduler.after(10 * SECOND, Event::Plug(place, number));
        }
        self.note("plug", number, &self.places[place].epoch.to_le_bytes());
        Ok(())
    }

    /// Makes a device a reader from its next operations on; everybody hears of it at another time.
    pub(super) fn demote(&mut self, number: usize) -> Result<(), Broken> {
        if self.roles.version > 0 {
            return Ok(());
        }
        let (own, count) = self.machines[number].acknowledged;
        // Somewhere in what is already merged, or a little later.
        let cut = count.saturating_sub(5).max(1) + self.rng.below(10);
        self.roles.version = 1;
        self.roles.readers.insert(own.device, cut);
        // What it has said of other places may be refused as well, wherever they are now.
        for place in self.places.iter_mut() {
            place.contested |= place.at == Some(number) || self.intents.speaks_of(number, place);
        }
        self.fire(Fault::Roles);
        for machine in 0..self.machines.len() {
            let delay = self.rng.below(60 * SECOND);
            self.scheduler.after(delay, Event::Hear(machine));
        }
        Ok(())
    }

    /// A machine compacts its logs, as an idle node does.
    pub(super) fn compact(&mut self, number: usize) -> Result<(), Broken> {
        let now = self.now(number);
        let Some(catalog) = self.machines[number].catalog().filter(|_| !self.machines[number].provisional) else {
            return Ok(());
        };
        self.touched.push(number);
        let limits = Compaction { ops_min: COMPACT_OPS, bytes_min: 1, alone: false };
        let result = catalog.compact_logs(limits, now.wall);
        let told: Vec<_> = self.machines[number].running.iter().flat_map(|it| it.commits.try_iter()).collect();
        let own: Vec<_> = told.into_iter().flat_map(|commit| commit.own).collect();
        let (author, count) = self.machines[number].acknowledged;
        if result.is_err() || self.machines[number].disk.is_dead() {
            // How much of it is there is seen at the next start.
            self.truth.attempt(author, 2 * count + 1);
        }
        for batch in &own {
            self.learn(number, &batch.sealed)?;
            self.machines[number].acknowledged = (batch.author, batch.next_seq);
        }
        match result {
            Ok(done) => {
                self.outcome.fired.add(Fault::Compact, done.let_go + done.freed_bytes.min(1));
                self.note("compact", number, &done.freed_bytes.to_le_bytes());
                self.dies(number)?;
                if self.machines[number].running.is_some() { self.tell_own(number, own) } else { Ok(()) }
            }
            Err(error) => self.suffer(number, &error),
        }
    }

    /// A machine hears of the newest roles.
    pub(super) fn hear_roles(&mut self, number: usize) -> Result<(), Broken> {
        let Some(catalog) = self.machines[number].catalog() else { return Ok(()) };
        let now = self.now(number);
        self.touched.push(number);
        match catalog.set_permits(std::sync::Arc::new(self.roles.clone()), now.wall) {
            Ok(_) => {
                self.machines[number].roles = self.roles.version;
                self.note("roles", number, &[]);
                self.dies(number)
            }
            Err(error) => self.suffer(number, &error),
        }
    }
}
