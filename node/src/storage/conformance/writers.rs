//! Several at once, and some that give up.

use super::{Bench, Broken, hold, noise, same};
use crate::storage::{IfAbsent, Put, PutMode};
use bytes::Bytes;
use futures::{FutureExt, future::join_all};

const WRITERS: u64 = 8;

fn of(writer: u64) -> Bytes {
    noise(writer, 50_000 + 1000 * usize::try_from(writer).unwrap_or_default())
}

fn is_somebodys(got: &Bytes) -> Result<(), Broken> {
    hold((0..WRITERS).any(|writer| of(writer) == *got), || format!("{} bytes that nobody wrote", got.len()))
}

pub(super) async fn one_of_many_wins(bench: &Bench<'_>) -> Result<(), Broken> {
    let key = bench.key("race");
    let puts = (0..WRITERS).map(|writer| bench.provider.put(&key, of(writer), PutMode::IfAbsent));
    let mut winners = Vec::new();
    for (writer, put) in (0_u64..).zip(join_all(puts).await) {
        if put? == Put::New {
            winners.push(writer);
        }
    }
    let got = bench.provider.get_range(&key, None).await?;
    match bench.provider.if_absent() {
        IfAbsent::Atomic => {
            same(winners.len(), 1, "winners")?;
            hold(winners.iter().all(|writer| of(*writer) == got), || "not the winner's bytes".to_owned())
        }
        IfAbsent::LookedUp => {
            hold(!winners.is_empty(), || "nobody put it".to_owned())?;
            is_somebodys(&got)
        }
    }
}

pub(super) async fn readers_see_whole_objects(bench: &Bench<'_>) -> Result<(), Broken> {
    let key = bench.put("page", of(0)).await?;
    let writing = async {
        for round in 0..3 {
            let puts =
                (0..WRITERS).map(|writer| bench.provider.put(&key, of((writer + round) % WRITERS), PutMode::Replace));
            for put in join_all(puts).await {
                put?;
            }
        }
        Ok::<_, Broken>(())
    };
    let reading = async {
        for _ in 0..20 {
            is_somebodys(&bench.provider.get_range(&key, None).await?)?;
        }
        Ok::<_, Broken>(())
    };
    let (wrote, read) = futures::join!(writing, reading);
    wrote?;
    read?;
    is_somebodys(&bench.provider.get_range(&key, None).await?)
}

pub(super) async fn cancelled_puts_leave_all_or_nothing(bench: &Bench<'_>) -> Result<(), Broken> {
    let bytes = noise(9, 3_000_000);
    for polls in 0..6_u64 {
        let key = bench.key(&format!("cancelled/{polls}"));
        {
            let put = bench.provider.put(&key, bytes.clone(), PutMode::IfAbsent).fuse();
            futures::pin_mut!(put);
            // Given up while it is on its way: after a little more each time.
            let patience = std::time::Duration::from_micros(300 << polls);
            let _ = tokio::time::timeout(patience, put).await;
        }
        let listed = bench.provider.list(key.as_str(), None, 10).await?.objects;
        match bench.provider.stat(&key).await? {
            Some(_) => bench.holds(&key, &bytes).await?,
            None => hold(listed.is_empty() || bench.provider.stat(&key).await?.is_some(), || {
                "an object that is listed and not there".to_owned()
            })?,
        }
        bench.provider.put(&key, bytes.clone(), PutMode::IfAbsent).await?;
        bench.holds(&key, &bytes).await?;
    }
    Ok(())
}
