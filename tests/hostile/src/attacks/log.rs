//! Attacks on the logs: what is said, by whom, when, and under which key.

use crate::{
    forge,
    gossip::{Line, message, news, topic},
    peer::Peer,
    talk::Talk,
};
use anyhow::{Context, Result, ensure};
use larder_protocol::{
    bounded::{Bytes, List, Text},
    codec,
    id::{ContentId, EpochId, WantId},
    log::{Author, Batch, Op, SealedBatch, SignedBatch, SignedHeader, VersionVector, batch_hash, genesis_hash},
    membership::{Admit, Cuts, Enrolment, MembershipOp, Remove, Role, SealedName, SetRole},
    record::{Entry, EntryValue, GoneReason, Record, Suspicion, SuspicionReason},
    sync::{Frame, Gossip},
    time::Hlc,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn claim(author: Author, count: u64) -> VersionVector {
    VersionVector::from_iter([(author, count)])
}

/// Tells a batch both ways: as news and in a session. Gives whether the session went to its end.
async fn tell(peer: &Arc<Peer>, batch: &Batch, sealed: &SealedBatch) -> Result<bool> {
    let (author, first_seq, next_seq) = (batch.author, batch.first_seq, batch.next_seq());
    // A long one is no news, which only announces it.
    let told = news(peer, &Gossip::Batch { author, first_seq, next_seq, batch: sealed.clone() });
    if let (Ok(told), Ok(mut line)) = (told, Line::open(peer).await) {
        let _ = line.send(&told).await;
    }
    peer.reconnect().await;
    Talk::deliver(peer, &claim(batch.author, batch.next_seq()), vec![sealed.clone()]).await
}

/// What others said before, again and again.
pub async fn replay(peer: &Arc<Peer>) -> Result<Value> {
    let learnt = peer.learnt.lock().unwrap().clone();
    let mut line = Line::open(peer).await?;
    let mut told = 0;
    for _ in 0..20 {
        for (sealed, batch) in learnt.batches.iter().filter(|(sealed, _)| sealed.sealed.len() < 16_000).take(10) {
            let (author, first_seq, next_seq) = (batch.author, batch.first_seq, batch.next_seq());
            let again = news(peer, &Gossip::Batch { author, first_seq, next_seq, batch: sealed.clone() })?;
            // The node may close the stream of whoever floods it.
            told += u32::from(line.send(&again).await.is_ok());
        }
    }
    let batches: Vec<_> = learnt.batches.iter().map(|(sealed, _)| sealed.clone()).collect();
    let went = Talk::deliver(peer, &VersionVector::default(), batches).await?;
    ensure!(!went, "a session took what was not missing");
    Ok(json!({ "told": told }))
}

/// A statement in the name of an honest device.
pub async fn forged_signature(peer: &Arc<Peer>) -> Result<Value> {
    let learnt = peer.learnt.lock().unwrap().clone();
    let (sealed, honest) =
        learnt.batches.iter().rfind(|(_, batch)| batch.author.device == peer.victim).context("none")?;
    let key = peer.ring.as_ref().and_then(|ring| ring.get(&sealed.epoch)).context("no key")?.log_key();
    let signed = sealed.open_whole(&key)?;
    let (_, record) = forge::location("forged");
    let ops = vec![forge::op(&record, forge::reading())?];
    let next = Batch {
        first_seq: honest.next_seq(),
        previous: batch_hash(&signed),
        ..forge::first(peer, honest.author, ops.clone())
    };
    let other = Author { device: honest.author.device, incarnation: honest.author.incarnation + 1 };
    for batch in [next, forge::first(peer, other, ops)] {
        let sealed = forge::seal(peer, &forge::sign(peer, &batch)?)?;
        ensure!(!tell(peer, &batch, &sealed).await?, "a forged batch was taken");
        // Also as if the honest device itself had sent it.
        let (author, first_seq, next_seq) = (batch.author, batch.first_seq, batch.next_seq());
        let data = codec::encode(&Gossip::Batch { author, first_seq, next_seq, batch: sealed })?;
        if let Ok(mut line) = Line::open(peer).await {
            let _ = line.send(&message(peer, &peer.victim, &topic(peer), &data)).await;
        }
    }
    Ok(json!({ "forged": 2 }))
}

/// Batches under epochs and keys that the group does not have.
pub async fn wrong_epoch(peer: &Arc<Peer>) -> Result<Value> {
    let (_, record) = forge::location("epoch");
    let (epoch, secret) = peer.ring.as_ref().context("no keys")?.current();
    let cases = [
        (EpochId::new(larder_node::keys::random()), *secret.log_key()),
        (epoch, larder_node::keys::random()),
        (EpochId::new([0; 16]), [0; 32]),
    ];
    for (epoch, key) in &cases {
        let batch = forge::first(peer, peer.fresh_author(), vec![forge::op(&record, forge::reading())?]);
        let sealed = forge::seal_as(&forge::sign(peer, &batch)?, *epoch, key)?;
        ensure!(!tell(peer, &batch, &sealed).await?, "a batch that does not open was taken");
    }
    Ok(json!({ "epochs": cases.len() }))
}

/// Sound statements from years ahead.
pub async fn future(peer: &Arc<Peer>) -> Result<Value> {
    let (id, record) = forge::location("from-the-future");
    let ahead = forge::reading().millis() + 10 * 365 * 86_400_000;
    let content = ContentId::new([0xfe; 32]);
    let ops = vec![
        forge::op(&record, Hlc::from_parts(ahead, 0))?,
        forge::op(&forge::entry(id, "from-the-future.txt", content, 1)?, Hlc(u64::MAX))?,
    ];
    let (claims, batches) = forge::log(peer, vec![ops])?;
    ensure!(Talk::deliver(peer, &claims, batches).await?, "statements from the future are kept");
    Ok(json!({}))
}

/// One name for two things: news, and contents.
pub async fn same_id(peer: &Arc<Peer>) -> Result<Value> {
    let learnt = peer.learnt.lock().unwrap().clone();
    let mut line = Line::open(peer).await?;
    // What honest devices will say next, taken before they say it.
    for (author, count) in learnt.vector.iter() {
        for next_seq in count + 1..count + 4 {
            let noise = larder_node::keys::random::<64>().to_vec();
            let batch = SealedBatch { epoch: EpochId::new([1; 16]), nonce: [0; 24], sealed: Bytes::new(noise)? };
            let (author, first_seq) = (*author, *count);
            let _ = line.send(&news(peer, &Gossip::Batch { author, first_seq, next_seq, batch })?).await;
            let _ = line.send(&news(peer, &Gossip::Head { author, next_seq })?).await;
        }
    }
    peer.reconnect().await;
    // The same content in another size.
    let (id, location) = forge::location("same-id");
    let mut ops = vec![forge::op(&location, forge::reading())?];
    for (number, (_, entry)) in learnt.entries.iter().take(20).enumerate() {
        if let EntryValue::File(file) = entry.value {
            let entry = forge::entry(id, &format!("same-{number}"), file.content, file.size ^ 0xffff)?;
            ops.push(forge::op(&entry, forge::reading())?);
        }
    }
    let (claims, batches) = forge::log(peer, vec![ops])?;
    let went = Talk::deliver(peer, &claims, batches).await?;
    Ok(json!({ "went": went }))
}

/// A frame of zstd that says it is four exabytes, and unpacks to a gigabyte.
fn zstd_bomb() -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
    bytes.extend((1u64 << 62).to_le_bytes());
    for number in 0..8192u32 {
        // Repeats one byte 128 KiB times; the last one says so.
        let head = u32::from(number == 8191) | 1 << 1 | (128 << 10) << 3;
        bytes.extend(&head.to_le_bytes()[..3]);
        bytes.push(0);
    }
    bytes
}

/// Little that claims to be much: to whatever unpacks, and to whatever believes a count.
pub async fn bomb(peer: &Arc<Peer>) -> Result<Value> {
    let bomb = zstd_bomb();
    let (epoch, secret) = peer.ring.as_ref().context("no keys")?.current();
    for prefix in [&[][..], &[0], &[1], &[2], &[1, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]] {
        let plain = [prefix, &bomb].concat();
        let header = SignedHeader { bytes: Bytes::default(), signature: Bytes::new(vec![0; 64])? };
        let signed = SignedBatch { header, ops: Bytes::new(plain)? };
        let batch = forge::first(peer, peer.fresh_author(), vec![forge::junk(999, 8)?]);
        ensure!(
            !tell(peer, &batch, &signed.pack()?.seal(epoch, &secret.log_key(), larder_node::keys::random())).await?,
            "taken"
        );
    }
    // Counts of 2^62 where a list begins, in every kind of frame.
    for kind in 1..7u8 {
        peer.reconnect().await;
        let mut talk = Talk::begin(peer).await?;
        talk.send_bytes(&[&[kind, 253][..], &(1u64 << 62).to_le_bytes(), &[0; 4000]].concat()).await?;
        talk.ended().await.context("a count that cannot be")?;
    }
    Ok(json!({ "bytes": bomb.len() }))
}

/// Copies that do not exist, copies of others that are said to be gone, and doubts about sound ones.
pub async fn false_locations(peer: &Arc<Peer>) -> Result<Value> {
    let learnt = peer.learnt.lock().unwrap().clone();
    let (id, location) = forge::location("false");
    let mut ops = vec![forge::op(&location, forge::reading())?];
    let foreign = learnt.entries.iter().filter(|(author, _)| author.device != peer.keys.device());
    for (number, (_, entry)) in foreign.take(50).enumerate() {
        let EntryValue::File(file) = entry.value else { continue };
        let copy = forge::entry(id, &format!("copy-{number}"), file.content, file.size)?;
        let reason = SuspicionReason::Damaged;
        let doubt = Suspicion { location: entry.location, content: file.content, reason, seen: forge::now() };
        let gone = Entry { value: EntryValue::Gone(GoneReason::Removed), ..entry.clone() };
        for record in [copy, doubt.into(), gone.into()] {
            ops.push(forge::op(&record, forge::reading())?);
        }
    }
    let said = ops.len();
    let (claims, batches) = forge::log(peer, vec![ops])?;
    let went = Talk::deliver(peer, &claims, batches).await?;
    Ok(json!({ "went": went, "said": said }))
}

/// Grants of locks and holds that nobody asked for. There are no leases yet, so these are kinds that nobody knows: of
/// frames, of news and of statements.
pub async fn false_grants(peer: &Arc<Peer>) -> Result<Value> {
    let mut talk = Talk::begin(peer).await?;
    talk.hello().await?;
    for number in 0..80u8 {
        if talk.send_bytes(&[7 + number % 100, 1, 2, 3]).await.is_err() {
            break;
        }
    }
    talk.ended().await.context("kinds of frames that do not exist")?;
    peer.reconnect().await;
    let mut line = Line::open(peer).await?;
    for kind in 2..60u8 {
        let _ = line.send(&message(peer, &peer.keys.device(), &topic(peer), &[kind, 1, 2, 3, kind])).await;
    }
    let ops = (0..100).map(|number| forge::junk(1000 + number, 200)).collect::<Result<Vec<_>>>()?;
    let (claims, batches) = forge::log(peer, vec![ops])?;
    let went = Talk::deliver(peer, &claims, batches).await?;
    Ok(json!({ "went": went }))
}

/// Two histories under one name.
pub async fn equivocation(peer: &Arc<Peer>) -> Result<Value> {
    let author = peer.fresh_author();
    let say = |name: &str, count: usize| -> Result<(Batch, SealedBatch)> {
        let ops = (0..count).map(|_| forge::op(&forge::location(name).1, forge::reading()));
        let batch = forge::first(peer, author, ops.collect::<Result<_>>()?);
        let sealed = forge::seal(peer, &forge::sign(peer, &batch)?)?;
        Ok((batch, sealed))
    };
    let (one, two) = (say("one", 1)?, say("two", 2)?);
    let went = Talk::deliver(peer, &claim(author, 1), vec![one.1]).await?;
    ensure!(went, "a sound batch was refused");
    peer.reconnect().await;
    tell(peer, &two.0, &two.1).await?;
    // A third one in one frame with the second.
    let author = peer.fresh_author();
    let again = Batch { author, previous: genesis_hash(&peer.group, &author), ..two.0.clone() };
    let other = Batch { author, previous: genesis_hash(&peer.group, &author), ..one.0 };
    let seal = |batch: &Batch| forge::seal(peer, &forge::sign(peer, batch)?);
    let batches = vec![seal(&other)?, seal(&again)?];
    peer.reconnect().await;
    let both = Talk::deliver(peer, &claim(author, 3), batches).await?;
    Ok(json!({ "both": both }))
}

/// What only admins may do.
pub async fn escalation(peer: &Arc<Peer>) -> Result<Value> {
    let own = peer.keys.device();
    let stranger = larder_node::keys::DeviceKeys::generate();
    let (epoch, secret) = peer.ring.as_ref().context("no keys")?.current();
    let name = SealedName::seal(&Text::new("ghost")?, epoch, secret.as_bytes(), larder_node::keys::random());
    let admit = Admit {
        member: Enrolment::sign(stranger.wrapping().public(), stranger.signing()),
        name,
        role: Role::Admin,
        epochs: List::default(),
    };
    let promote = SetRole { device: own, role: Role::Admin, cuts: Cuts::default() };
    let demote = SetRole { device: peer.victim, role: Role::Reader, cuts: Cuts::default() };
    let remove = Remove { device: peer.victim, cuts: Cuts::default() };
    let ops = vec![
        forge::membership(peer, 0, MembershipOp::SET_ROLE, &promote)?,
        forge::membership(peer, 1, MembershipOp::ADMIT, &admit)?,
        forge::membership(peer, 2, MembershipOp::SET_ROLE, &demote)?,
        forge::membership(peer, 3, MembershipOp::REMOVE, &remove)?,
    ];
    Talk::begin(peer).await?.impose(ops).await?;
    Ok(json!({ "ghost": stranger.device().to_string() }))
}

/// Statements that make no sense, and some that make too much.
pub async fn junk(peer: &Arc<Peer>) -> Result<Value> {
    let mut batches = Vec::new();
    for number in 0..5u16 {
        let mut ops = Vec::new();
        for kind in 0..12u16 {
            for len in [0, 1, 40, 4000] {
                ops.push(forge::junk(kind + 1000 * (number % 2), len)?);
            }
        }
        batches.push(ops);
    }
    let nasty = "\u{1b}[2J\u{202e}gpj.\u{7}\r\n../../etc";
    let (id, location) = forge::location(nasty);
    let mut named = vec![
        forge::op(&location, forge::reading())?,
        forge::op(
            &forge::device(nasty, &["tcp://0.0.0.0:0".to_owned(), "tcp://255.255.255.255:1".to_owned()]),
            forge::reading(),
        )?,
        forge::op(&forge::entry(id, "\u{1b}[31mred\u{202e}", ContentId::new([0xee; 32]), u64::MAX)?, forge::reading())?,
    ];
    let want = larder_protocol::record::Want {
        id: WantId::new(larder_node::keys::random()),
        content: ContentId::new([0xee; 32]),
        location: id,
        path: larder_protocol::path::RelPath::new("wanted")?,
    };
    named.push(forge::op(&Record::from(want), forge::reading())?);
    batches.push(named);
    let (claims, batches) = forge::log(peer, batches)?;
    let went = Talk::deliver(peer, &claims, batches).await?;
    Ok(json!({ "went": went }))
}

/// Statements of a device that may only read, and those that only admins may make.
pub async fn without_right(peer: &Arc<Peer>) -> Result<Value> {
    let (_, location) = forge::location("by-a-reader");
    let (claims, batches) = forge::log(peer, vec![vec![forge::op(&location, forge::reading())?]])?;
    let went = Talk::deliver(peer, &claims, batches).await?;
    peer.reconnect().await;
    let seen = escalation(peer).await?;
    Ok(json!({ "went": went, "ghost": seen["ghost"] }))
}

/// A vault that says what only readers of the catalog can, and asks for what it must not have.
pub async fn vault(peer: &Arc<Peer>) -> Result<Value> {
    let mut talk = Talk::begin(peer).await?;
    talk.hello().await?;
    let frame = talk.next().await?;
    if let Some(Frame::Summary { vector, .. }) = frame {
        ensure!(vector.iter().count() == 0, "a vault is told what the group has");
    }
    talk.claim(VersionVector::default(), Vec::new()).await?;
    let mut got = 0;
    let _ = talk.send(&Frame::End { vector: VersionVector::default() }).await;
    while let Some(frame) = talk.next().await? {
        got += usize::from(matches!(frame, Frame::Batches(_)));
    }
    ensure!(got == 0, "a vault was given the catalog");
    // With the keys that it had as a writer, it still may not speak.
    let mut taken = None;
    if peer.ring.is_some() {
        peer.reconnect().await;
        let (_, location) = forge::location("by-a-vault");
        let (claims, batches) = forge::log(peer, vec![vec![forge::op(&location, forge::reading())?]])?;
        taken = Some(Talk::deliver(peer, &claims, batches).await?);
    }
    Ok(json!({ "taken": taken }))
}

/// Sound statements without end.
pub async fn flood(peer: &Arc<Peer>) -> Result<Value> {
    let mut batches = Vec::new();
    for _ in 0..40 {
        let ops: Vec<Op> = (0..500).map(|_| forge::junk(1500, 100)).collect::<Result<_>>()?;
        batches.push(ops);
    }
    let (claims, batches) = forge::log(peer, batches)?;
    let went = Talk::deliver(peer, &claims, batches).await?;
    Ok(json!({ "went": went, "said": 20_000 }))
}
