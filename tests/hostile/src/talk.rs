//! A session of anti-entropy, spoken by hand: every frame is what the attack wants it to be.

use crate::peer::{PATIENCE, Peer, SYNC};
use anyhow::{Context, Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt};
use larder_protocol::{
    bounded::List,
    codec,
    id::MembershipOpId,
    log::{Author, SealedBatch, VersionVector},
    membership::SignedOp,
    sync::{FRAME_BYTES_MAX, Frame},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// How long to try until a session is let in: each side runs only so many at once.
const LET_IN: Duration = Duration::from_secs(15);

/// A session whose first word has been heard and not yet answered.
pub struct Talk<'a> {
    peer: &'a Peer,
    pub stream: libp2p::Stream,
    membership: [u8; 32],
}

impl<'a> Talk<'a> {
    /// Opens a stream and hears the node's hello.
    pub async fn begin(peer: &'a Peer) -> Result<Self> {
        Self::begin_within(peer, LET_IN).await
    }

    /// The same with a limit of its own.
    pub async fn begin_within(peer: &'a Peer, time: Duration) -> Result<Self> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if let Ok(mut stream) = peer.open(SYNC).await
                && let Ok(Ok(Some(Frame::Hello { membership, .. }))) =
                    timeout(Duration::from_secs(2), receive(&mut stream)).await
            {
                return Ok(Self { peer, stream, membership });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the node lets no session in")
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Frame) -> Result<()> {
        self.send_bytes(&codec::encode(frame)?).await
    }

    /// Sends bytes as a frame.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let len = u32::try_from(bytes.len())?.to_le_bytes();
        self.send_raw(&[&len, bytes].concat()).await
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        Ok(timeout(PATIENCE, sent).await.context("the node reads nothing")??)
    }

    /// The next frame; `None` when the node has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        match timeout(PATIENCE, receive(&mut self.stream)).await.context("the node says nothing")? {
            Ok(frame) => Ok(frame),
            // A reset ends a stream as well.
            Err(_) => Ok(None),
        }
    }

    /// Waits for the node to end the stream, whatever it says before.
    pub async fn ended(mut self) -> Result<()> {
        while self.next().await.context("the node goes on with the session")?.is_some() {}
        Ok(())
    }

    /// Says hello as if it knew the same members and another catalog.
    pub async fn hello(&mut self) -> Result<()> {
        let membership = self.membership;
        self.say_hello(membership).await
    }

    async fn say_hello(&mut self, membership: [u8; 32]) -> Result<()> {
        let epoch = self.peer.ring.as_ref().map(|ring| ring.current().0);
        let catalog = larder_node::keys::random();
        self.send(&Frame::Hello { group: self.peer.group, epoch, catalog, membership }).await
    }

    /// Gives membership operations that the node has not asked for, and hears how far the node goes along.
    pub async fn impose(mut self, ops: Vec<SignedOp>) -> Result<()> {
        self.say_hello(larder_node::keys::random()).await?;
        let Some(Frame::MembershipIds(theirs)) = self.next().await? else { bail!("no membership ids") };
        let ids: BTreeSet<MembershipOpId> = theirs.iter().copied().chain(ops.iter().map(SignedOp::id)).collect();
        self.send(&Frame::MembershipIds(List::truncated(ids))).await?;
        self.send(&Frame::MembershipOps { ops: List::truncated(ops), last: true }).await?;
        while let Some(frame) = self.next().await? {
            if matches!(frame, Frame::Summary { .. }) {
                break;
            }
        }
        Ok(())
    }

    /// Says what this peer has, as if it had heard no log with two histories.
    pub async fn claim(&mut self, vector: VersionVector, held: Vec<(Author, u64, u64)>) -> Result<()> {
        self.send(&Frame::Summary { vector, held: List::truncated(held), tips: List::default() }).await?;
        self.send(&Frame::Diverged(List::default())).await
    }

    /// Hears the node's summary, and answers with the same and more.
    pub async fn summary(&mut self, more: &VersionVector) -> Result<VersionVector> {
        self.hello().await?;
        let Some(Frame::Summary { vector: mut claimed, .. }) = self.next().await? else { bail!("no summary") };
        claimed.join(more);
        self.claim(claimed.clone(), Vec::new()).await?;
        Ok(claimed)
    }

    /// Gives batches as if they were an ordinary part of a session; whether the node took part to the end. Connections that
    /// break for other reasons are tried again.
    pub async fn deliver(peer: &'a Peer, claimed: &VersionVector, batches: Vec<SealedBatch>) -> Result<bool> {
        let mut last = None;
        for _ in 0..4 {
            peer.reconnect().await;
            match Self::begin(peer).await?.deliver_once(claimed, batches.clone()).await {
                Err(error) => last = Some(error),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("never tried")))
    }

    async fn deliver_once(mut self, claimed: &VersionVector, batches: Vec<SealedBatch>) -> Result<bool> {
        let vector = self.summary(claimed).await?;
        for frame in batches.chunks(64) {
            if self.send(&Frame::Batches(List::truncated(frame.iter().cloned()))).await.is_err() {
                return Ok(false);
            }
            loop {
                match self.next().await? {
                    Some(Frame::Ack) => break,
                    // The node hangs up on who has said what it refuses.
                    Some(Frame::Batches(_)) => {
                        if self.send(&Frame::Ack).await.is_err() {
                            return Ok(false);
                        }
                    }
                    Some(_) => {}
                    None => return Ok(false),
                }
            }
        }
        if self.send(&Frame::End { vector }).await.is_err() {
            return Ok(false);
        }
        loop {
            match self.next().await? {
                // The node closes after its own end and after it has accounted for everything.
                Some(Frame::End { .. }) => {}
                Some(Frame::Batches(_)) => self.send(&Frame::Ack).await?,
                Some(_) => {}
                None => return Ok(true),
            }
        }
    }

    /// Takes everything that the node has.
    pub async fn pull(mut self) -> Result<(VersionVector, Vec<SealedBatch>)> {
        self.hello().await?;
        let Some(Frame::Summary { vector: theirs, .. }) = self.next().await? else { bail!("no summary") };
        let nothing = VersionVector::default();
        self.claim(nothing.clone(), Vec::new()).await?;
        let mut all = Vec::new();
        loop {
            match self.next().await? {
                Some(Frame::Batches(batches)) => {
                    all.extend(batches.into_vec());
                    self.send(&Frame::Ack).await?;
                }
                Some(Frame::End { .. }) => break,
                Some(_) => {}
                None => bail!("the session broke off"),
            }
        }
        self.send(&Frame::End { vector: nothing }).await?;
        while self.next().await?.is_some() {}
        Ok((theirs, all))
    }
}

async fn receive(stream: &mut libp2p::Stream) -> std::io::Result<Option<Frame>> {
    let mut head = [0; 4];
    if let Err(error) = stream.read_exact(&mut head).await {
        return if error.kind() == std::io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let len = u32::from_le_bytes(head) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    codec::decode(&bytes).map(Some).map_err(std::io::Error::other)
}
