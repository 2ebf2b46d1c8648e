//! When what happens: every class of faults that is asked for is planned a few times in each run.

use super::{Event, SECOND, TICK_NS, World};
use crate::{faults::Fault, oracle::Broken};

impl World {
    /// A time within the given thousandths of the run.
    fn at(&mut self, from: u64, until: u64) -> u64 {
        let length = self.scenario.seconds * SECOND / 1000;
        length * from + self.rng.below((length * (until - from)).max(1))
    }

    fn any_honest(&mut self) -> usize {
        let honest: Vec<usize> = self.honest().collect();
        honest[self.rng.index(honest.len())]
    }

    pub(super) fn begin(&mut self) -> Result<(), Broken> {
        for machine in self.honest().collect::<Vec<_>>() {
            self.start(machine)?;
        }
        for machine in 0..self.machines.len() {
            if self.machines[machine].is_honest() {
                self.announce_places(machine)?;
            } else {
                self.mischief(machine)?;
            }
            let first = self.rng.below(TICK_NS);
            self.scheduler.at(first, Event::Tick(machine));
        }
        Ok(())
    }

    pub(super) fn plan(&mut self) {
        for _ in 0..self.scenario.appends {
            let (at, machine) = (self.at(0, 1000), self.any_honest());
            self.scheduler.at(at, Event::Append(machine));
        }
        // The same setting is changed at the same moment: only the whole stamp tells which change wins.
        for _ in 0..self.scenario.appends.div_ceil(10) {
            let at = self.at(0, 1000);
            let machines = vec![self.any_honest(), self.any_honest(), self.any_honest()];
            self.scheduler.at(at, Event::Settings(machines));
        }
        let faults = self.scenario.faults;
        let honest = self.honest().count();
        for fault in faults.iter() {
            match fault {
                Fault::Partition => self.plan_splits(false),
                Fault::OneWay => self.plan_splits(true),
                Fault::Crash => self.plan_each(honest / 2 + 1, Event::Kill),
                Fault::Power => self.plan_each(honest + 1, Event::CutPower),
                Fault::Full => self.plan_each(3, Event::Fill),
                Fault::Rebuild => {
                    for _ in 0..2 {
                        let (machine, copied, at) = (self.any_honest(), self.at(0, 400), self.at(500, 950));
                        self.scheduler.at(copied, Event::Copy(machine));
                        self.scheduler.at(at, Event::Rebuild(machine));
                    }
                }
                Fault::Rollback => {
                    let (machine, copied, at) = (self.any_honest(), self.at(100, 400), self.at(450, 800));
                    self.scheduler.at(copied, Event::Backup(machine));
                    self.scheduler.at(at, Event::Rollback(machine));
                }
                Fault::Clone => {
                    let (machine, at) = (self.any_honest(), self.at(300, 800));
                    self.scheduler.at(at, Event::Clone(machine));
                }
                Fault::Jump => {
                    for _ in 0..honest.div_ceil(3) {
                        let ms = self.rng.below(1_100_000) as i64 - 600_000;
                        let (machine, at) = (self.any_honest(), self.at(0, 900));
                        self.scheduler.at(at, Event::Jump(machine, ms));
                    }
                }
                Fault::Future => {
                    let ms = (900_000 + self.rng.below(80_000_000)) as i64;
                    let (machine, at, back) = (self.any_honest(), self.at(0, 700), self.at(710, 900));
                    self.scheduler.at(at, Event::Jump(machine, ms));
                    self.scheduler.at(back, Event::Jump(machine, 0));
                }
                Fault::Unplug => {
                    let drives: Vec<usize> = (0..self.places.len()).filter(|it| self.places[*it].removable).collect();
                    for _ in 0..2 * drives.len() {
                        let (place, at) = (drives[self.rng.index(drives.len())], self.at(50, 900));
                        self.scheduler.at(at, Event::Unplug(place));
                    }
                }
                Fault::Compact => {
                    for _ in 0..honest * 4 {
                        let (at, machine) = (self.at(100, 1000), self.any_honest());
                        self.scheduler.at(at, Event::Compact(machine));
                    }
                }
                Fault::Roles if honest > 1 => {
                    let at = self.at(300, 800);
                    self.scheduler.at(at, Event::Demote(honest - 1));
                }
                _ => {}
            }
        }
        let hostile: Vec<usize> = (0..self.machines.len()).filter(|it| self.machines[*it].hostile.is_some()).collect();
        for machine in hostile {
            for _ in 0..12 {
                let at = self.at(0, 1000);
                self.scheduler.at(at, Event::Mischief(machine));
            }
        }
    }

    fn plan_each(&mut self, times: usize, event: fn(usize) -> Event) {
        for _ in 0..times {
            let (at, machine) = (self.at(20, 950), self.any_honest());
            self.scheduler.at(at, event(machine));
        }
    }

    fn plan_splits(&mut self, one_way: bool) {
        for _ in 0..2 {
            let at = self.at(50, 850);
            let lasts = self.rng.below(self.scenario.seconds * SECOND / 5);
            self.scheduler.at(at, Event::Split(one_way));
            self.scheduler.at(at + lasts, Event::Join);
        }
    }
}
