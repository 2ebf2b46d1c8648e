//! How machines start, stop, lose what they had, and come back.

use super::{
    CACHE_BYTES, Event, SECOND, World, broken,
    machine::{Machine, Running},
};
use crate::{
    disks::{Disk, Image},
    faults::{Fault, Faults},
    oracle::{self, Broken, Trouble, View},
};
use larder_node::catalog::{Catalog, CatalogError, OpenReport, Options};
use larder_protocol::{log::Author, time::Timestamp};
use std::sync::{Arc, mpsc::channel};

impl World {
    fn open(&self, number: usize, now: Timestamp) -> Result<(Catalog, OpenReport), CatalogError> {
        let machine = &self.machines[number];
        let options = Options {
            cache_bytes: CACHE_BYTES,
            permits: Arc::new(machine.known_roles(&self.roles)),
            ..Options::at(now)
        };
        let (backend, log) = (Box::new(machine.disk.clone()), machine.disk.log());
        Catalog::open_with_backend(backend, log, machine.identity.clone(), options)
    }

    /// Opens the catalog of a machine, as a process that starts does.
    pub(super) fn start(&mut self, number: usize) -> Result<(), Broken> {
        let now = self.now(number).wall;
        let blank = !self.machines[number].has_database;
        // A disk stays full across a crash.
        self.machines[number].disk.set_full(self.machines[number].full);
        let mut opened = self.open(number, now);
        // A power cut while the database was made can leave a file that is none yet; `Catalog::open` moves it aside.
        if blank && !self.machines[number].disk.is_dead() && opened.as_ref().is_err_and(CatalogError::is_damage) {
            self.machines[number].disk = self.machines[number].disk.with_database_of(&Image::default());
            opened = self.open(number, now);
        }
        let (catalog, report) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.suffer(number, &error),
        };
        if let Some(author) = report.short_logs.first().or(report.locked_logs.first()) {
            return Err(Broken(format!("node {number}: the log of {author} lost what was synced")));
        }
        self.machines[number].has_database = true;
        let (told, commits) = channel();
        catalog.subscribe(move |commit| drop(told.send(commit.clone())));
        self.machines[number].running = Some(Running { catalog: catalog.clone(), commits });
        self.note("start", number, &report.replayed_batches.to_le_bytes());
        self.dies(number)?;
        if self.machines[number].running.is_none() {
            return Ok(());
        }
        match self.learn_own(number, &catalog) {
            Ok(()) => {}
            Err(Trouble::Broken(broken)) => return Err(broken),
            Err(Trouble::Catalog(error)) => return self.suffer(number, &error),
        }
        self.look(number)
    }

    /// Learns what the machine's own log has that was not acknowledged, and how far a restored one goes.
    fn learn_own(&mut self, number: usize, catalog: &Catalog) -> Result<(), Trouble> {
        let view = View::of(catalog, self.machines[number].roles)?;
        let read = catalog.read()?;
        let device = self.machines[number].device();
        let own = read.own()?.0;
        let restored = self.machines[number].view.is_none();
        if restored || own.incarnation != self.machines[number].acknowledged.0.incarnation {
            let machine = &mut self.machines[number];
            if !restored {
                // A change of incarnation was finished at this start: what nobody was told is said there now.
                (machine.old_database, machine.told) = (None, None);
                machine.unsaid.clear();
            }
            machine.acknowledged = (own, view.stored(&own));
            self.outcome.incarnations += u64::from(!restored);
        }
        for author in view.authors().filter(|author| author.device == device) {
            for sealed in oracle::log_of(&read, author, view.stored(author))? {
                self.learn(number, &sealed)?;
            }
        }
        if restored {
            self.machines[number].view = Some(view);
            self.lose_what_nobody_has();
        }
        Ok(())
    }

    /// After a disk was replaced: what no honest machine has is gone, and is demanded from nobody.
    fn lose_what_nobody_has(&mut self) {
        let honest: Vec<&View> = self.honest().filter_map(|it| self.machines[it].view.as_ref()).collect();
        let hostile: Vec<_> = self.machines.iter().filter_map(|machine| machine.hostile.as_ref()).collect();
        let truth = &self.truth;
        let kept = |author: &Author, next: u64| {
            let has = |view: &&View| view.authors().any(|it| truth.signer(it) == *author && view.stored(it) >= next);
            honest.iter().any(has)
        };
        let mut secret = Vec::new();
        for author in honest.iter().flat_map(|view| view.authors()).copied().collect::<std::collections::BTreeSet<_>>()
        {
            let most = honest.iter().map(|view| view.stored(&author)).max().unwrap_or(0);
            // Only a hostile member knows how this log went on: it can make two histories of it.
            if hostile.iter().any(|hostile| hostile.count(&author) > most && hostile.own() != author) {
                secret.push(author);
            }
        }
        let kept: std::collections::BTreeSet<(Author, u64)> =
            truth.places().filter(|(author, next)| kept(author, *next)).collect();
        let lost = self.truth.lose(|author, next| kept.contains(&(*author, next)));
        self.intents.lose(&lost);
        secret.into_iter().for_each(|author| self.truth.give_up(author));
    }

    /// An operation of the catalog failed: right when the disk had failed.
    pub(super) fn suffer(&mut self, number: usize, error: &CatalogError) -> Result<(), Broken> {
        if self.machines[number].disk.is_dead() {
            return self.lose_power(number);
        }
        if self.machines[number].full {
            self.stop(number);
            let delay = SECOND + self.rng.below(20 * SECOND);
            self.scheduler.after(delay, Event::Restart(number));
            return Ok(());
        }
        Err(Broken(format!("node {number}: {error}")))
    }

    /// Notices that the power went although an answer was given.
    pub(super) fn dies(&mut self, number: usize) -> Result<(), Broken> {
        if self.machines[number].disk.is_dead() { self.lose_power(number) } else { Ok(()) }
    }

    /// Ends what runs on a machine; its streams break.
    fn stop(&mut self, number: usize) {
        self.machines[number].running = None;
        let streams: Vec<u64> = self.streams_of(number).collect();
        streams.into_iter().for_each(|stream| drop(self.streams.remove(&stream)));
        self.note("stop", number, &[]);
    }

    fn comes_back(&mut self, number: usize) {
        let delay = SECOND + self.rng.below(40 * SECOND);
        self.scheduler.after(delay, Event::Restart(number));
    }

    /// The power has gone.
    pub(super) fn lose_power(&mut self, number: usize) -> Result<(), Broken> {
        self.fire(Fault::Power);
        let faults: Faults = self.scenario.faults;
        let disk = self.machines[number].disk.after_power_cut(faults, &mut self.rng, &mut self.outcome.fired);
        self.stop(number);
        self.machines[number].disk = disk;
        self.comes_back(number);
        Ok(())
    }

    pub(super) fn kill(&mut self, number: usize) -> Result<(), Broken> {
        if self.machines[number].running.is_some() {
            self.fire(Fault::Crash);
            let disk = self.machines[number].disk.after_kill();
            self.stop(number);
            self.machines[number].disk = disk;
            self.comes_back(number);
        }
        Ok(())
    }

    pub(super) fn cut_power(&mut self, number: usize) -> Result<(), Broken> {
        let effects = self.rng.below(60);
        self.machines[number].disk.cut_power_after(effects);
        Ok(())
    }

    pub(super) fn restart(&mut self, number: usize) -> Result<(), Broken> {
        let machine = &self.machines[number];
        if machine.running.is_some() || !machine.is_honest() {
            return Ok(());
        }
        if self.faults().has(Fault::Power) && self.rng.chance(150) {
            let effects = self.rng.below(20);
            self.machines[number].disk.cut_power_after(effects);
        }
        self.start(number)?;
        self.mount_again(number)?;
        self.meet_some(number)
    }

    /// A restored device mounts its places anew.
    pub(super) fn mount_again(&mut self, number: usize) -> Result<(), Broken> {
        if !self.machines[number].unmounted || self.machines[number].running.is_none() {
            return Ok(());
        }
        for place in self.places.iter_mut().filter(|place| place.at == Some(number)) {
            place.epoch += 1;
        }
        self.machines[number].unmounted = !self.announce_places(number)?;
        Ok(())
    }

    pub(super) fn fill(&mut self, number: usize) -> Result<(), Broken> {
        self.machines[number].full = true;
        self.machines[number].disk.set_full(true);
        let delay = 20 * SECOND + self.rng.below(60 * SECOND);
        self.scheduler.after(delay, Event::Room(number));
        Ok(())
    }

    pub(super) fn room(&mut self, number: usize) -> Result<(), Broken> {
        let refused = self.machines[number].disk.refused();
        if refused == 0 && self.machines[number].full && !self.healing {
            // Nobody has noticed yet.
            self.scheduler.after(20 * SECOND, Event::Room(number));
            return Ok(());
        }
        self.outcome.fired.add(Fault::Full, refused);
        self.machines[number].disk.set_full(false);
        if !std::mem::take(&mut self.machines[number].full) || refused == 0 {
            return Ok(());
        }
        // What failed for want of room may have left the catalog read-only.
        if self.machines[number].running.is_some() {
            self.stop(number);
        }
        self.scheduler.after(SECOND, Event::Restart(number));
        Ok(())
    }

    pub(super) fn copy_database(&mut self, number: usize) -> Result<(), Broken> {
        self.machines[number].old_database = Some(self.machines[number].disk.image());
        Ok(())
    }

    /// Takes the database away, or puts an old copy in its place.
    pub(super) fn rebuild(&mut self, number: usize) -> Result<(), Broken> {
        if self.machines[number].running.is_none() {
            if !self.healing {
                self.scheduler.after(5 * SECOND, Event::Rebuild(number));
            }
            return Ok(());
        }
        self.fire(Fault::Rebuild);
        let old = self.machines[number].old_database.take().filter(|_| self.rng.chance(500)).unwrap_or_default();
        let disk = self.machines[number].disk.after_kill().with_database_of(&old);
        self.stop(number);
        self.machines[number].has_database = !disk.is_blank();
        if disk.is_blank() {
            // What others know of its log was only in the database: it tells all of it now, before it has asked.
            let (unsaid, wall) = (std::mem::take(&mut self.machines[number].unsaid), self.true_wall());
            unsaid.iter().try_for_each(|batch| self.truth.learn(batch, wall).map(drop))?;
        }
        self.machines[number].disk = disk;
        self.comes_back(number);
        Ok(())
    }

    pub(super) fn back_up(&mut self, number: usize) -> Result<(), Broken> {
        self.machines[number].backup = Some(self.machines[number].disk.image());
        Ok(())
    }

    /// Replaces a machine's disk by its backup.
    pub(super) fn roll_back(&mut self, number: usize) -> Result<(), Broken> {
        let Some(image) = self.machines[number].backup.take() else { return Ok(()) };
        if self.machines[number].retired {
            return Ok(());
        }
        self.fire(Fault::Rollback);
        self.stop(number);
        let machine = &mut self.machines[number];
        machine.disk = Disk::of(&image);
        machine.has_database = !machine.disk.is_blank();
        machine.disk.set_full(machine.full);
        (machine.view, machine.told, machine.old_database, machine.provisional) = (None, None, None, true);
        (machine.acknowledged.1, machine.unmounted) = (0, true);
        machine.unsaid.clear();
        // What was under way from it has arrived by then.
        let delay = 10 * SECOND + self.rng.below(30 * SECOND);
        self.scheduler.after(delay, Event::Restart(number));
        Ok(())
    }

    /// Copies a machine; both run.
    pub(super) fn clone_machine(&mut self, number: usize) -> Result<(), Broken> {
        if self.machines[number].running.is_none() || self.machines[number].provisional {
            if !self.healing {
                self.scheduler.after(5 * SECOND, Event::Clone(number));
            }
            return Ok(());
        }
        self.fire(Fault::Clone);
        let original = &self.machines[number];
        let mut copy = Machine::new(original.identity.signing.to_bytes());
        (copy.disk, copy.clock, copy.roles) = (Disk::of(&original.disk.image()), original.clock, original.roles);
        // A disk that was copied asks before it speaks; a machine that was copied as it ran has asked already.
        let provisional = self.rng.chance(500);
        (copy.vouched, copy.provisional, copy.copy_of) = (original.vouched.clone(), provisional, Some(number));
        (copy.has_database, copy.wall_max) = (true, original.wall_max);
        self.machines.push(copy);
        self.links.add(true, self.scenario.faults, &mut self.rng);
        for place in self.places.iter_mut().filter(|place| place.at == Some(number)) {
            place.contested = true;
        }
        let copy = self.machines.len() - 1;
        self.start(copy)?;
        self.scheduler.after(SECOND, Event::Tick(copy));
        for _ in 0..5 {
            let delay = self.rng.below(120 * SECOND);
            self.scheduler.after(delay, Event::Append(copy));
        }
        Ok(())
    }

    /// Ends all faults: links, power, room and clocks are as they should be, and who was copied is one again.
    pub(super) fn heal(&mut self) -> Result<(), Broken> {
        self.healing = true;
        self.links.heal();
        for number in 0..self.machines.len() {
            let machine = &mut self.machines[number];
            machine.clock = Default::default();
            machine.disk.set_full(false);
            if std::mem::take(&mut machine.full) {
                let refused = machine.disk.refused();
                self.outcome.fired.add(Fault::Full, refused);
                self.stop(number);
            }
            if self.machines[number].copy_of.is_some() {
                self.stop(number);
                self.machines[number].retired = true;
                self.machines[number].view = None;
            }
        }
        self.lose_what_nobody_has();
        for number in self.honest().collect::<Vec<_>>() {
            let whole = self.machines[number].disk.after_kill();
            if self.machines[number].running.is_some() {
                self.stop(number);
            }
            self.machines[number].disk = whole;
            self.start(number)?;
            if self.machines[number].running.is_none() {
                return Err(Broken(format!("node {number} does not start although all is well")));
            }
            self.mount_again(number)?;
            self.machines[number].roles = self.roles.version;
            self.hear_roles(number)?;
            self.look(number).map_err(|Broken(what)| broken(what))?;
        }
        Ok(())
    }
}
