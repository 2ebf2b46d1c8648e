//! A bare parallel walk with `stat`: the floor under an index that finds nothing changed. Prints the number of files.
//!
//! Threads take folders from one shared stack until all are read.

use std::{
    env, fs,
    path::PathBuf,
    sync::{Condvar, Mutex},
    thread,
};

/// Folders to be read, and how many threads read one now.
struct Work {
    folders: Vec<PathBuf>,
    busy: usize,
}

fn main() {
    let root = env::args_os().nth(1).map(PathBuf::from).expect("usage: walk FOLDER");
    let work = (Mutex::new(Work { folders: vec![root], busy: 0 }), Condvar::new());
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let files: u64 = thread::scope(|scope| {
        let walkers: Vec<_> = (0..threads).map(|_| scope.spawn(|| read(&work))).collect();
        walkers.into_iter().map(|walker| walker.join().expect("a walker does not panic")).sum()
    });
    println!("{files}");
}

fn read((work, changed): &(Mutex<Work>, Condvar)) -> u64 {
    let mut files = 0;
    loop {
        let mut state = work.lock().expect("no walker panics");
        let folder = loop {
            match state.folders.pop() {
                Some(folder) => break folder,
                None if state.busy == 0 => return files,
                None => state = changed.wait(state).expect("no walker panics"),
            }
        };
        state.busy += 1;
        drop(state);
        let mut below = Vec::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // `metadata` of an entry is the `stat` that an index needs too; it does not follow links.
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => below.push(entry.path()),
                Ok(meta) if meta.is_file() => files += 1,
                _ => {}
            }
        }
        let mut state = work.lock().expect("no walker panics");
        state.busy -= 1;
        state.folders.append(&mut below);
        changed.notify_all();
    }
}
