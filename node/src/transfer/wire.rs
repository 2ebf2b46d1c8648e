//! Requests and refusals on the wire.
//!
//! A request is one byte for its type and a postcard-encoded body, exactly as iroh-blobs 0.104 writes it. A response is
//! for each blob its size as u64 LE and the bao encoding of the requested ranges. Refusals are error codes; where a code
//! would overtake the bytes before it, as a QUIC reset does, a response that is refused after its first blob just ends.

use bao_tree::ChunkRanges;
use iroh_blobs::{
    Hash,
    protocol::{ChunkRangesSeq, GetManyRequest, GetRequest, Request, RequestType},
};
use larder_protocol::fetch::Reason;
use serde::de::DeserializeOwned;
use std::io;

/// Longest request in bytes.
pub(super) const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Most blobs in one request.
pub(super) const BLOBS_MAX: usize = 2_000;
/// Most borders of ranges in one request, over all its blobs.
const BORDERS_MAX: usize = 65_536;

/// Why the server ends a response early. 1 to 3 are those of iroh-blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not a member who may read.
    Permission,
    /// Too much at once.
    Limit,
    /// A failure inside, or a request that makes no sense.
    Internal,
    /// The blob is not here.
    NotFound,
    /// The blob was here; the file does not match it any more.
    Changed,
    /// The blob is read through, to be proven: it can be asked for again. So many millionths of it were read.
    Preparing(u32),
}

/// Codes from here to a million more say how far a blob was read.
const PREPARING: u32 = 1_000_000;
const PARTS: u32 = 1_000_000;

impl Refusal {
    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Permission => 1,
            Self::Limit => 2,
            Self::Internal => 3,
            Self::NotFound => 16,
            Self::Changed => 17,
            Self::Preparing(parts) => PREPARING + if parts < PARTS { parts } else { PARTS },
        }
    }

    /// How many millionths were read of a blob that is being prepared.
    pub(super) fn parts_prepared(code: u64) -> Option<u32> {
        let parts = u32::try_from(code).ok()?.checked_sub(PREPARING)?;
        (parts <= PARTS).then_some(parts)
    }

    /// What a code means for a fetch.
    pub(super) fn reason(code: u64) -> Reason {
        match code {
            1 => Reason::Refused,
            16 => Reason::NotThere,
            17 => Reason::Damaged,
            // It was asked for again until it got no further.
            code if Self::parts_prepared(code).is_some() => Reason::Stalled,
            _ => Reason::Broken,
        }
    }
}

/// An error that carries the server's refusal through `std::io`.
#[derive(Debug, thiserror::Error)]
#[error("the source refused with code {0}")]
pub(super) struct Refused(pub(super) u64);

/// The blobs of a request and the ranges of each.
pub(super) type Wanted = Vec<(blake3::Hash, ChunkRanges)>;

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Encodes a request for one or many blobs.
pub(super) fn encode(wanted: &Wanted) -> io::Result<Vec<u8>> {
    let body = |kind: RequestType, body: Result<Vec<u8>, postcard::Error>| {
        let mut bytes = postcard::to_allocvec(&kind).map_err(io::Error::other)?;
        bytes.extend(body.map_err(io::Error::other)?);
        Ok(bytes)
    };
    match &wanted[..] {
        [(hash, ranges)] => {
            let request = GetRequest::blob_ranges(Hash::from(*hash), ranges.clone());
            body(RequestType::Get, postcard::to_allocvec(&request))
        }
        many => {
            let hashes = many.iter().map(|(hash, _)| Hash::from(*hash)).collect();
            let ranges = many.iter().map(|(_, ranges)| ranges.clone()).chain([ChunkRanges::empty()]);
            let request = GetManyRequest::new(hashes, ChunkRangesSeq::from_ranges(ranges));
            body(RequestType::GetMany, postcard::to_allocvec(&request))
        }
    }
}

/// Decodes a value that nothing follows.
fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ()> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(drop)?;
    if rest.is_empty() { Ok(value) } else { Err(()) }
}

/// Decodes a request; other kinds than reading are refused.
pub(super) fn decode(bytes: &[u8]) -> io::Result<Wanted> {
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(invalid("request too long"));
    }
    let (kind, body) = bytes.split_first().ok_or_else(|| invalid("empty request"))?;
    let kind: RequestType = whole(&[*kind]).map_err(|_| invalid("unknown request"))?;
    let request: Request = match kind {
        RequestType::Get => whole::<GetRequest>(body).map_err(|_| invalid("malformed request"))?.into(),
        RequestType::GetMany => whole::<GetManyRequest>(body).map_err(|_| invalid("malformed request"))?.into(),
        _ => return Err(invalid("only reading is served")),
    };
    match request {
        Request::Get(get) => {
            if !get.ranges.is_blob() {
                return Err(invalid("sequences of hashes are not served"));
            }
            let ranges = get.ranges.iter_infinite().next().cloned().unwrap_or_else(ChunkRanges::empty);
            Ok(vec![((*get.hash.as_bytes()).into(), ranges)])
        }
        Request::GetMany(many) => {
            if many.hashes.len() > BLOBS_MAX {
                return Err(invalid("too many blobs in one request"));
            }
            let (mut wanted, mut borders) = (Wanted::new(), 0);
            for (hash, ranges) in many.hashes.iter().zip(many.ranges.iter_infinite()) {
                // The last ranges hold for all blobs that follow: few bytes could ask for gigabytes of them.
                borders += ranges.boundaries().len();
                if borders > BORDERS_MAX {
                    return Err(invalid("too many ranges in one request"));
                }
                if !ranges.is_empty() {
                    wanted.push(((*hash.as_bytes()).into(), ranges.clone()));
                }
            }
            Ok(wanted)
        }
        _ => Err(invalid("only reading is served")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::ChunkNum;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn requests_round_trip(count in 1u8..20, from in 0u64..100, len in 1u64..100) {
            let ranges = ChunkRanges::from(ChunkNum(from)..ChunkNum(from + len));
            let wanted: Wanted = (0..count).map(|n| (blake3::hash(&[n]), ranges.clone())).collect();
            prop_assert_eq!(decode(&encode(&wanted).unwrap()).unwrap(), wanted);
        }

        #[test]
        fn random_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    /// A request with trailing bytes was taken.
    #[test]
    fn trailing_bytes_are_refused() {
        for count in 1..3u8 {
            let wanted: Wanted = (0..count).map(|n| (blake3::hash(&[n]), ChunkRanges::all())).collect();
            let mut bytes = encode(&wanted).unwrap();
            assert!(decode(&bytes).is_ok());
            bytes.push(0);
            assert!(decode(&bytes).is_err());
        }
    }

    /// 256 KiB of request became 3 GiB of ranges: those of one blob hold for all that follow.
    #[test]
    fn ranges_that_repeat_do_not_multiply() {
        let many = |borders: u64, blobs: u32| {
            let ranges = (0..borders).fold(ChunkRanges::empty(), |ranges, number| {
                ranges | ChunkRanges::from(ChunkNum(4 * number)..ChunkNum(4 * number + 1))
            });
            let hashes = (0..blobs).map(|number| Hash::new(number.to_le_bytes())).collect();
            let request = GetManyRequest::new(hashes, ChunkRangesSeq::from_ranges_infinite([ranges]));
            let kind = postcard::to_allocvec(&RequestType::GetMany).unwrap();
            [kind, postcard::to_allocvec(&request).unwrap()].concat()
        };
        assert_eq!(decode(&many(16, 2_000)).unwrap().len(), 2_000);
        let bomb = many(1_000, 2_000);
        assert!(bomb.len() < REQUEST_BYTES_MAX);
        assert!(decode(&bomb).is_err());
    }

    #[test]
    fn writing_watching_and_sequences_are_refused() {
        let push = postcard::to_allocvec(&RequestType::Push).unwrap();
        assert!(decode(&push).is_err());
        let mut sequence = postcard::to_allocvec(&RequestType::Get).unwrap();
        sequence.extend(postcard::to_allocvec(&GetRequest::all(Hash::from([1; 32]))).unwrap());
        assert!(decode(&sequence).is_err());
        assert!(decode(&[]).is_err());
        assert!(decode(&vec![0; REQUEST_BYTES_MAX + 1]).is_err());
    }
}
