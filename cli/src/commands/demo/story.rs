//! What the demo tells, and what it proves.

use super::{
    Failure,
    files::{self, Sample},
    stage::{Stage, text},
};
use serde_json::Value;
use std::{fs, path::Path};

/// Tells the story from beginning to end.
pub(super) fn tell(stage: &mut Stage, data: Option<&Path>) -> Result<(), Failure> {
    for name in ["laptop", "desktop", "nas"] {
        stage.machine(name)?;
    }
    let photos = stage.folder("laptop/photos")?;
    let samples = match data {
        Some(folder) => files::copy(folder, &photos)?,
        None => files::make(&photos)?,
    };
    pair(stage)?;
    find_and_get(stage, &photos, &samples)?;
    seal(stage, &photos, &samples)?;
    lose_a_holder(stage, &samples)?;
    damage(stage, &photos, &samples)?;
    agree(stage)
}

fn pair(stage: &mut Stage) -> Result<(), Failure> {
    stage.chapter("1. Three machines become one group.");
    let words = stage.path("recovery-words.txt");
    stage.run("laptop", &["init", "--name", "laptop", "--recovery-out", text(&words)?])?;
    stage.run("laptop", &["up"])?;
    for name in ["desktop", "nas"] {
        let invite = stage.run("laptop", &["invite"])?;
        let code = invite.object()?["code"].as_str().ok_or("invite has no code")?.to_owned();
        stage.run(name, &["join", &code, "--name", name])?;
        if name == "desktop" {
            let again = stage.try_run("nas", &["join", &code, "--name", "nas"])?;
            stage.prove(
                again.code == 5 && again.error_kind().as_deref() == Some("invite-used"),
                "an invite code works once: the second machine that tries it is refused",
            )?;
        }
    }
    for name in ["laptop", "desktop", "nas"] {
        stage.until(name, &["device", "list"], |answer| {
            answer.objects.len() == 3
                && answer.objects.iter().all(|device| device["online"] == true || device["this"] == true)
        })?;
    }
    stage.prove(true, "three machines, paired by invite codes, see each other")
}

fn find_and_get(stage: &mut Stage, photos: &Path, samples: &[Sample]) -> Result<(), Failure> {
    stage.chapter("2. What one machine has, the others find and fetch.");
    stage.run("laptop", &["location", "add", "photos", text(photos)?])?;
    let index = stage.run("laptop", &["index", "photos"])?;
    stage.say(&format!("{} files, {} bytes hashed", index.object()?["scanned"], index.object()?["hashed_bytes"]));

    let wanted = samples.iter().find(|sample| sample.path.contains("beach")).unwrap_or(&samples[1]);
    let word = Path::new(&wanted.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or(&wanted.path);
    let hit = |object: &Value| object["content_id"] == wanted.hash.as_str();
    let found = stage.until("desktop", &["find", word], |answer| answer.objects.iter().any(hit))?;
    let object = found.objects.iter().find(|object| hit(object)).ok_or("lost the hit")?;
    stage.say(&format!("{} is at {}", wanted.path, object["replicas"][0]["location"]));
    stage.prove(true, "a file that only the laptop has is found from the desktop by a word of its name")?;

    let target = stage.path("desktop/fetched");
    let got = stage.run("desktop", &["get", &wanted.hash, "-o", text(&target)?])?;
    stage.prove(
        got.object()?["verified"] == true && files::hash(&target)? == wanted.hash,
        "and fetched from there, byte for byte (BLAKE3 as b3sum prints it)",
    )?;

    let everything = stage.folder("desktop/everything")?;
    stage.run("desktop", &["get", "photos:", "-o", text(&everything)?])?;
    let mut whole = true;
    for sample in samples {
        whole &= files::hash(&everything.join(&sample.path)).ok().as_deref() == Some(&sample.hash);
    }
    stage.prove(whole, &format!("a whole location arrives as it was: {} different files", samples.len()))?;

    let middle = wanted.size / 2;
    let last = (middle + 99).min(wanted.size.saturating_sub(1));
    let range = format!("{middle}-{last}");
    let piece = stage.run("desktop", &["cat", &wanted.hash, "--range", &range])?;
    let bytes = fs::read(&target)?;
    let expected = bytes.get(usize::try_from(middle)?..=usize::try_from(last)?).unwrap_or_default();
    stage.prove(piece.stdout == expected, "a range out of the middle is read without fetching the rest")
}

fn seal(stage: &mut Stage, photos: &Path, samples: &[Sample]) -> Result<(), Failure> {
    stage.chapter("3. The NAS keeps encrypted copies and cannot be read by whoever steals its disk.");
    let vault = stage.folder("nas/disk")?;
    stage.run("nas", &["location", "add", "vault", text(&vault)?, "--profile", "sealed"])?;
    stage.until("laptop", &["location", "show", "vault"], |answer| answer.code == 0)?;
    // The last sample stays out: the fifth chapter needs one that only the laptop has.
    let kept = &samples[..samples.len() - 1];
    let references: Vec<String> = kept.iter().map(|sample| format!("photos:{}", sample.path)).collect();
    let mut command = vec!["ensure"];
    command.extend(references.iter().map(String::as_str));
    command.extend(["--at", "vault"]);
    let ensured = stage.run("laptop", &command)?;
    stage.prove(ensured.objects.len() == kept.len(), "the laptop asked, the NAS stored: durable sealed copies")?;

    let mut needles = Vec::new();
    for sample in kept {
        let name = Path::new(&sample.path).file_name().and_then(|name| name.to_str()).unwrap_or(&sample.path);
        if name.len() >= 6 {
            needles.push(name.as_bytes().to_vec());
        }
        needles.push(sample.hash.as_bytes().to_vec());
        let bytes = fs::read(photos.join(&sample.path))?;
        if bytes.len() >= 32 {
            let middle = bytes.len() / 2 - 16;
            needles.push(bytes[middle..middle + 32].to_vec());
        }
    }
    stage.prove(
        !files::anything_shows(&vault, &needles)?,
        "nothing on the NAS's disk shows a name, a plain hash or plain bytes",
    )
}

fn lose_a_holder(stage: &mut Stage, samples: &[Sample]) -> Result<(), Failure> {
    stage.chapter("4. The laptop is switched off.");
    stage.run("laptop", &["down"])?;
    let wanted = &samples[0];
    let off = |answer: &super::stage::Answer| {
        let replicas = answer.objects.first().and_then(|object| object["replicas"].as_array());
        replicas.is_some_and(|replicas| {
            replicas.iter().any(|copy| copy["location"] == "photos" && copy["reachable"] == false)
                && replicas.iter().any(|copy| copy["location"] == "vault" && copy["reachable"] == true)
        })
    };
    let answer = stage.until("desktop", &["where", &wanted.hash], off)?;
    let replicas = answer.object()?["replicas"].as_array().cloned().unwrap_or_default();
    for copy in &replicas {
        let action = copy["action"].as_str().unwrap_or("can be reached now");
        stage.say(&format!("{}: {}; {action}", copy["location"], copy["state"]));
    }
    stage.prove(true, "'where' still answers, says which copy is off, and what would help")?;

    let target = stage.path("desktop/from-vault");
    let got = stage.run("desktop", &["get", &wanted.hash, "-o", text(&target)?])?;
    stage.prove(
        files::hash(&target)? == wanted.hash && got.object()?["sources"][0]["name"] == "nas",
        "the desktop restores the file from the NAS's sealed chunks, byte for byte",
    )?;
    stage.run("laptop", &["up"])?;
    stage.until("desktop", &["device", "show", "laptop"], |answer| {
        answer.objects.first().is_some_and(|device| device["online"] == true)
    })?;
    stage.prove(true, "the laptop comes back under its old name and is found again by itself")
}

fn damage(stage: &mut Stage, photos: &Path, samples: &[Sample]) -> Result<(), Failure> {
    stage.chapter("5. A disk flips a bit.");
    let only_copy = samples.last().ok_or("no sample")?;
    files::flip_bit(&photos.join(&only_copy.path))?;
    let target = stage.path("desktop/damaged");
    let refused = stage.try_run("desktop", &["get", &only_copy.hash, "-o", text(&target)?])?;
    stage.prove(
        refused.code != 0 && !target.exists(),
        "a file whose only copy is damaged is refused, and no bad byte is written",
    )?;
    let also_sealed = &samples[1];
    files::flip_bit(&photos.join(&also_sealed.path))?;
    let target = stage.path("desktop/healed");
    stage.run("desktop", &["get", &also_sealed.hash, "-o", text(&target)?])?;
    stage.prove(
        files::hash(&target)? == also_sealed.hash,
        "where another copy exists, it is used instead of the damaged one",
    )
}

fn agree(stage: &mut Stage) -> Result<(), Failure> {
    stage.chapter("6. Nobody is in charge, and all agree.");
    let digest = |answer: &super::stage::Answer| {
        answer.objects.first().and_then(|object| object["digest"].as_str().map(str::to_owned))
    };
    let mut reference = None;
    for name in ["laptop", "desktop", "nas"] {
        let wanted = reference.clone();
        let answer = stage.until(name, &["catalog", "digest"], |answer| {
            digest(answer).is_some_and(|found| wanted.is_none() || wanted == Some(found))
        })?;
        reference = digest(&answer);
    }
    stage.prove(reference.is_some(), "all three catalogs have the same digest")
}
