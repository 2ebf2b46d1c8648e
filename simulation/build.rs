//! Hashes the sources that a run of the simulation speaks of, so that counts of different sources are kept apart.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // What commands and nodes say to each other plays no part.
        if path.ends_with("protocol/src/control") {
            continue;
        }
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let mut hasher = blake3::Hasher::new();
    for folder in ["protocol/src", "node/src/catalog", "simulation/src"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
        let mut found = Vec::new();
        files(&root.join(folder), &mut found)?;
        found.sort();
        for path in found {
            let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            let bytes = fs::read(&path)?;
            hasher.update(name.as_bytes()).update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        }
    }
    println!("cargo::rustc-env=LARDER_SIMULATION_SOURCES={}", &hasher.finalize().to_hex()[..16]);
    Ok(())
}
