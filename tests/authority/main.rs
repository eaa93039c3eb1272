//! The `:authority` adapter: random legal connections against an HPACK decoder, random illegal ones
//! against an own walk, and gRPC clients in Go and Python against a server that uses it.

#![allow(clippy::disallowed_methods, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

mod oracle;
mod wire;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, ReadBuf};
use wharf::server::authority::{MAX_FRAME, Mended};
use wire::{Encoder, HEADERS, PREFACE, Random};

/// Gives its octets in random pieces, with pauses in between, and counts them.
struct Pieces {
    octets: Vec<u8>,
    given: Arc<AtomicUsize>,
    random: Random,
    largest: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.random.one_in(4) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let largest = self.largest;
        let size = 1 + self.random.below(largest);
        let at = self.given.load(Ordering::Relaxed);
        let size = size.min(out.remaining()).min(self.octets.len() - at);
        out.put_slice(&self.octets[at..at + size]);
        self.given.store(at + size, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

/// Reads a connection through the adapter in random pieces.
async fn through(connection: &[u8], random: &mut Random) -> Vec<u8> {
    // Never more than one HEADERS frame and a chunk of 4 KiB is held back, whatever the peer sends.
    const BOUND: usize = 9 + MAX_FRAME as usize + 4_096;
    let given = Arc::new(AtomicUsize::new(0));
    let (largest, read) = [(40, 50), (20_000, 9_000), (20_000, 50), (40, 9_000)][random.below(4)];
    let octets = connection.to_vec();
    let seed = random.below(usize::MAX >> 32) as u64;
    let pieces = Pieces { octets, given: given.clone(), random: Random::new(seed), largest };
    let mut stream = pin!(Mended::new(pieces));
    let mut got = Vec::new();
    loop {
        let mut buffer = vec![0; 1 + random.below(read)];
        let mut buffer = ReadBuf::new(&mut buffer);
        poll_fn(|context| stream.as_mut().poll_read(context, &mut buffer)).await.unwrap();
        if buffer.filled().is_empty() {
            return got;
        }
        got.extend_from_slice(buffer.filled());
        let held = given.load(Ordering::Relaxed) - got.len();
        assert!(held <= BOUND, "{held} octets are held back");
    }
}

/// Runs a property with the seeds from 0 on; `SEED=n` runs that one alone, `ROUNDS=n` more or fewer.
async fn for_each_seed(rounds: u64, mut property: impl AsyncFnMut(Random)) {
    let number = |name| std::env::var(name).ok().map(|n| n.parse().expect("a number"));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROUNDS").unwrap_or(rounds),
    };
    for seed in seeds {
        // The test harness shows the last line when the property fails.
        println!("SEED={seed}");
        property(Random::new(seed)).await;
    }
}

#[tokio::test]
async fn every_authority_is_mended_and_nothing_else_changes() {
    let mut authorities = 0;
    for_each_seed(300, async |mut random| {
        let sent = wire::legal_connection(&mut random);
        let got = through(&sent, &mut random).await;
        let ((mut wanted, others), (lists, other)) = (oracle::decode(&sent), oracle::decode(&got));
        for (name, value) in wanted.iter_mut().flatten().filter(|field| field.0 == b":authority") {
            authorities += usize::from(value.iter().any(|c| matches!(c, b'%' | b'/')));
            assert!(!name.is_empty());
            *value = oracle::mended(value);
        }
        assert!(wanted == lists, "a field is not what it should be");
        assert!(others == other, "something outside the header blocks has changed");
    })
    .await;
    assert!(authorities > 0);
}

/// A connection that is broken somewhere: octets changed, cut off, or nonsense in its header blocks.
fn hostile_connection(random: &mut Random) -> Vec<u8> {
    let mut sent = match random.below(3) {
        0 => {
            let mut sent = PREFACE.to_vec();
            for _ in 0..random.below(20) {
                let most = if random.one_in(50) { 70_000 } else { 300 };
                let length = random.below(most);
                let payload = random.octets(length);
                wire::frame(&mut sent, random.below(3) as u8, random.below(256) as u8, 1, &payload);
            }
            sent
        }
        1 => {
            let mut sent = PREFACE.to_vec();
            for stream in 0..10 {
                let mut block = Vec::new();
                for _ in 0..random.below(5) {
                    let length = random.below(200);
                    let value = random.octets(length);
                    Encoder::default().field(&mut block, b":authority", &value, random);
                }
                wire::frame(&mut sent, HEADERS, 4, 2 * stream + 1, &block);
            }
            sent
        }
        _ => wire::legal_connection(random),
    };
    for _ in 0..random.below(8) {
        let at = random.below(sent.len());
        sent[at] = random.below(256) as u8;
    }
    sent.truncate(random.below(sent.len() + 1).max(random.below(sent.len() + 1)));
    sent
}

/// Checks that a connection differs from what was sent in nothing but `%` and `/` of authorities.
fn assert_only_authorities_differ(sent: &[u8], got: &[u8]) {
    assert_eq!(sent.len(), got.len());
    let mut wanted = sent.to_vec();
    if sent.starts_with(PREFACE) {
        for frame in oracle::frames(sent) {
            let (HEADERS, true) = (frame.0, frame.2.len() <= MAX_FRAME as usize) else { continue };
            let Some(part) = oracle::fragment(sent, &frame) else { continue };
            for (value, huffman) in oracle::authorities(&sent[part.clone()]) {
                let value = part.start + value.start..part.start + value.end;
                let (before, after) = (&sent[value.clone()], &got[value.clone()]);
                match oracle::text(before, huffman) {
                    // h2 refuses these as well: what of them is mended does not matter.
                    None => {}
                    Some(text)
                        if huffman && text.iter().any(|c| *c == b'\\' || !(b' '..=b'~').contains(c)) => {}
                    Some(text) => assert_eq!(oracle::text(after, huffman), Some(oracle::mended(&text))),
                }
                wanted[value].copy_from_slice(after);
            }
        }
    }
    assert!(wanted == got, "something else than an authority has changed");
}

#[tokio::test]
async fn hostile_octets_do_no_harm() {
    for_each_seed(10_000, async |mut random| {
        let sent = hostile_connection(&mut random);
        let got = through(&sent, &mut random).await;
        assert_only_authorities_differ(&sent, &got);
    })
    .await;
}

#[tokio::test]
async fn what_is_not_http2_passes() {
    let mut random = Random::new(0);
    let headers = b"\x00\x00\x03\x01\x04\x00\x00\x00\x01\x41\x01/";
    for sent in [
        &b""[..],
        b"G",
        b"GET /%2F HTTP/1.1\r\nhost: /\r\n\r\n",
        &PREFACE[..23],
        &[PREFACE, b"\xff\xff\xff\x01\xff\0\0\0\0"].concat(),
        &[&PREFACE[..23], b"/", headers].concat(),
        &[b"\n", PREFACE, headers].concat(),
    ] {
        assert_eq!(through(sent, &mut random).await, sent);
    }
}

#[tokio::test]
async fn a_mended_authority_is_one_that_the_http_crate_accepts() {
    for text in [
        "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fwharf.csi.dev-reg.sock",
        "/var/lib/kubelet/plugins/wharf.csi.dev/csi.sock",
        "%2Ftmp%2Fa~b!$&'()*+,;=.sock",
        "localhost",
        "a.b:80",
        "%00abstract",
    ] {
        for huffman in [false, true] {
            let mut block = vec![0x41];
            wire::string(&mut block, text.as_bytes(), huffman);
            let mut sent = PREFACE.to_vec();
            wire::frame(&mut sent, HEADERS, 4, 1, &block);
            let got = through(&sent, &mut Random::new(7)).await;
            let value = String::from_utf8(oracle::decode(&got).0[0][0].1.clone()).unwrap();
            assert_eq!(value, text.replace(['%', '/'], "-"));
            value.parse::<tonic::codegen::http::uri::Authority>().unwrap();
        }
    }
}
