//! Objects in parts.

use super::{Bench, Broken, hold, noise, same};
use crate::storage::{
    Multipart, ObjectKey, Part, Put, PutMode, Upload,
    upload::{self, Object, Plan, Progress},
};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

fn multipart<'a>(bench: &'a Bench<'_>) -> Result<&'a dyn Multipart, Broken> {
    bench.provider.multipart().ok_or_else(|| Broken("no such ability".to_owned()))
}

/// An object of two whole parts and a bit.
fn example(parts: &dyn Multipart) -> Result<(Bytes, usize), Broken> {
    let rules = parts.rules();
    let step = rules.bytes_step.max(1);
    let part = rules.bytes_min.max(100_000).div_ceil(step) * step;
    let part = usize::try_from(part).map_err(|error| Broken(error.to_string()))?;
    Ok((noise(4, 2 * part + 777), part))
}

async fn put_parts(
    parts: &dyn Multipart,
    upload: &Upload,
    bytes: &Bytes,
    part: usize,
    numbers: &[usize],
) -> Result<Vec<Part>, Broken> {
    let mut put = Vec::new();
    for number in numbers {
        let start = (number - 1) * part;
        let piece = bytes.slice(start..(start + part).min(bytes.len()));
        let number = u32::try_from(*number).map_err(|error| Broken(error.to_string()))?;
        put.push(parts.put_part(upload, number, start as u64, piece).await?);
    }
    put.sort();
    Ok(put)
}

async fn invisible(bench: &Bench<'_>, key: &ObjectKey) -> Result<(), Broken> {
    same(bench.provider.stat(key).await?, None, "an unfinished object")?;
    let listed = bench.provider.list(&bench.prefix(""), None, 100).await?.objects;
    hold(listed.is_empty(), || format!("an unfinished upload is listed: {listed:?}"))
}

pub(super) async fn nothing_shows_before_it_is_complete(bench: &Bench<'_>) -> Result<(), Broken> {
    let parts = multipart(bench)?;
    let key = bench.key("parts/object");
    let (bytes, part) = example(parts)?;
    let upload = parts.begin(&key, bytes.len() as u64, PutMode::Replace).await?;
    invisible(bench, &key).await?;
    let mut put = if parts.rules().in_order {
        put_parts(parts, &upload, &bytes, part, &[1, 2]).await?
    } else {
        put_parts(parts, &upload, &bytes, part, &[3, 1]).await?
    };
    invisible(bench, &key).await?;
    let last: &[usize] = if parts.rules().in_order { &[3] } else { &[2] };
    put.extend(put_parts(parts, &upload, &bytes, part, last).await?);
    put.sort();
    same(parts.complete(&upload, &put, PutMode::Replace).await?, Put::New, "completing")?;
    bench.holds(&key, &bytes).await?;
    let border = part as u64;
    let over = bench.provider.get_range(&key, Some(border - 10..border + 10)).await?;
    hold(over == bytes.slice(part - 10..part + 10), || "a range over the border of two parts".to_owned())?;
    let unfinished = parts.unfinished(&bench.prefix("")).await?;
    hold(unfinished.is_empty(), || "a complete upload is listed as unfinished".to_owned())
}

pub(super) async fn given_up_leaves_nothing(bench: &Bench<'_>) -> Result<(), Broken> {
    let parts = multipart(bench)?;
    let key = bench.key("parts/given-up");
    let (bytes, part) = example(parts)?;
    let upload = parts.begin(&key, bytes.len() as u64, PutMode::Replace).await?;
    put_parts(parts, &upload, &bytes, part, &[1, 2]).await?;
    if parts.rules().lists_unfinished {
        let unfinished: Vec<_> =
            parts.unfinished(&bench.prefix("")).await?.into_iter().map(|upload| upload.id).collect();
        hold(unfinished == [upload.id.clone()], || "the upload is not listed as unfinished".to_owned())?;
        hold(parts.unfinished(&bench.prefix("other")).await?.is_empty(), || "it is listed elsewhere too".to_owned())?;
    }
    parts.abort(&upload).await?;
    parts.abort(&upload).await?;
    hold(parts.unfinished(&bench.prefix("")).await?.is_empty(), || "given up and still listed".to_owned())?;
    let more = put_parts(parts, &upload, &bytes, part, &[3]).await;
    hold(more.is_err(), || "a part of an upload that was given up is taken".to_owned())?;
    invisible(bench, &key).await
}

pub(super) async fn goes_on_after_an_interruption(bench: &Bench<'_>) -> Result<(), Broken> {
    let parts = multipart(bench)?;
    let key = bench.key("parts/resumed");
    let (bytes, part) = example(parts)?;
    let begun = parts.begin(&key, bytes.len() as u64, PutMode::Replace).await?;
    put_parts(parts, &begun, &bytes, part, &[1, 2]).await?;
    // All that a new process has is what was noted of the upload.
    let noted = serde_json::to_string(&begun).map_err(|error| Broken(error.to_string()))?;
    let upload: Upload = serde_json::from_str(&noted).map_err(|error| Broken(error.to_string()))?;
    let mut have = parts.parts(&upload).await?;
    let received: u64 = have.iter().map(|part| part.size).sum();
    same(received, 2 * part as u64, "bytes that came before the interruption")?;
    have.extend(put_parts(parts, &upload, &bytes, part, &[3]).await?);
    same(parts.complete(&upload, &have, PutMode::Replace).await?, Put::New, "completing")?;
    bench.holds(&key, &bytes).await
}

pub(super) async fn complete_respects_what_is_there(bench: &Bench<'_>) -> Result<(), Broken> {
    let parts = multipart(bench)?;
    let (bytes, part) = example(parts)?;
    for mode in [PutMode::IfAbsent, PutMode::Replace] {
        let key = bench.key(&format!("parts/there-{mode:?}"));
        let upload = parts.begin(&key, bytes.len() as u64, mode).await?;
        let put = put_parts(parts, &upload, &bytes, part, &[1, 2]).await?;
        bench.provider.put(&key, "old".into(), PutMode::Replace).await?;
        let rest = put_parts(parts, &upload, &bytes, part, &[3]).await;
        let completed = match rest {
            // Where the last part makes the object, it may be the part that is refused.
            Err(_) if parts.rules().in_order && mode == PutMode::IfAbsent => Put::AlreadyThere,
            rest => parts.complete(&upload, &[put, rest?].concat(), mode).await?,
        };
        if mode == PutMode::IfAbsent && bench.provider.if_absent() == crate::storage::IfAbsent::Atomic {
            same(completed, Put::AlreadyThere, "completing over an object")?;
            bench.holds(&key, b"old").await?;
            parts.abort(&upload).await?;
        } else if mode == PutMode::Replace {
            same(completed, Put::New, "completing in its place")?;
            bench.holds(&key, &bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn objects_of_every_size(bench: &Bench<'_>) -> Result<(), Broken> {
    const MIB: usize = 1 << 20;
    let all = noise(5, 25 * MIB);
    for size in [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB - 1, 10 * MIB, 10 * MIB + 1, 25 * MIB] {
        let (key, bytes) = (bench.key(&format!("sizes/{size}")), all.slice(..size));
        let steps: Mutex<Vec<Progress>> = Mutex::default();
        let progress = |step| steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
        let object = || Object { key: &key, source: Arc::new(bytes.clone()), mode: PutMode::IfAbsent, fingerprint: "" };
        same(upload::upload(bench.provider, object(), None, &progress).await?, Put::New, "upload")?;
        bench.holds(&key, &bytes).await?;
        let again = upload::upload(bench.provider, object(), None, &|_| {}).await?;
        same(again, Put::AlreadyThere, "the same upload again")?;
        let steps = steps.into_inner().unwrap_or_else(PoisonError::into_inner);
        let end = Progress { done: size as u64, size: size as u64 };
        hold(steps.last() == Some(&end), || format!("progress of {size} ends with {:?}", steps.last()))?;
        hold(steps.is_sorted_by_key(|step| step.done), || "progress goes back".to_owned())?;
        if let Some(rules) = bench.provider.multipart().map(Multipart::rules).filter(|_| size > 5 * MIB) {
            let plan = Plan::new(size as u64, &rules).ok_or_else(|| Broken(format!("{size} bytes cannot be cut")))?;
            hold(steps.len() >= plan.parts as usize, || format!("{} steps of {} parts", steps.len(), plan.parts))?;
        }
        bench.provider.delete(&key).await?;
    }
    Ok(())
}
