//! Lets h2 accept the `:authority` that gRPC clients derive from a unix socket's path.
//!
//! A client that dials a bare path sends it as the authority: `%2Fvar%2Flib%2F…` from grpc-go (the
//! kubelet's plugin manager among others) and grpc-core, `/var/lib/…` from grpc-java. RFC 3986 allows
//! neither where h2 expects a host, so h2 answers PROTOCOL_ERROR before tonic sees the request, and
//! it has no option to be lenient. [`Mended`] therefore replaces `%` and `/` inside `:authority`
//! before h2 reads it. Nothing in wharf reads the authority, so its value does not matter.
//!
//! Only what HTTP/2 requires of every client is relied upon:
//! - a connection begins with the client's preface (RFC 9113, section 3.4), then come frames with a
//!   head of nine octets (section 4.1);
//! - a frame is no larger than the size that the server allows (section 4.2), see [`MAX_FRAME`];
//! - pseudo-header fields come before all others (section 8.3), so `:authority` lies in the HEADERS
//!   frame (section 6.2) and CONTINUATION frames pass unread.
//!
//! What is not understood passes unchanged, and h2 judges it exactly as it would without this.

use super::hpack;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// The largest payload of a frame that the server allows (SETTINGS_MAX_FRAME_SIZE). h2 ends the
/// connection at a larger one, so there is no need to look into it, and the buffer has a bound.
pub const MAX_FRAME: u32 = 16_384;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// How much there is room for in a read of the stream, at least.
const CHUNK: usize = 4_096;

/// A stream whose reader finds no `%` and no `/` in any `:authority`; writes pass through.
#[derive(Debug)]
pub struct Mended<S> {
    stream: S,
    inbox: Inbox,
}

impl<S> Mended<S> {
    /// Takes a stream from which nothing has been read yet.
    pub fn new(stream: S) -> Self {
        Self { stream, inbox: Inbox::default() }
    }
}

/// What has been read from the stream and not yet been handed to the reader.
///
/// It is filled only when there is nothing left to hand out, so it never holds more than one
/// incomplete HEADERS frame and a chunk.
#[derive(Debug, Default)]
struct Inbox {
    octets: Vec<u8>,
    /// `octets[..given]` have been handed out.
    given: usize,
    /// `octets[given..ready]` may be handed out.
    ready: usize,
    /// `octets[ready..filled]` wait for the end of their frame; what lies behind is free.
    filled: usize,
    /// So many octets from `ready` on need no look: the rest of a frame.
    pass: usize,
    expected: Expected,
}

/// What begins behind the octets that may pass.
#[derive(Clone, Copy, Debug, Default)]
enum Expected {
    #[default]
    Preface,
    Frame,
    /// Something that is not HTTP/2.
    Anything,
}

impl Inbox {
    /// Releases all that may be handed out, mended.
    fn scan(&mut self) {
        loop {
            let passing = self.pass.min(self.filled - self.ready);
            self.pass -= passing;
            self.ready += passing;
            let held = &mut self.octets[self.ready..self.filled];
            match self.expected {
                Expected::Preface if held.len() < PREFACE.len() && PREFACE.starts_with(held) => return,
                Expected::Preface if held.starts_with(PREFACE) => {
                    self.pass = PREFACE.len();
                    self.expected = Expected::Frame;
                }
                Expected::Preface => self.expected = Expected::Anything,
                Expected::Frame => match mend_frame(held) {
                    Some(length) => self.pass = length,
                    None => return,
                },
                Expected::Anything => {
                    self.ready = self.filled;
                    return;
                }
            }
        }
    }

    /// Forgets what has been handed out and takes in what one read of the stream yields; at its end,
    /// what was held back goes out as it is. Returns whether that was the end.
    fn fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        self.octets.copy_within(self.given..self.filled, 0);
        self.filled -= self.given;
        self.ready -= self.given;
        self.given = 0;
        if self.octets.len() < self.filled + CHUNK {
            self.octets.resize(self.filled + CHUNK, 0);
        }
        let mut free = ReadBuf::new(&mut self.octets[self.filled..]);
        ready!(Pin::new(stream).poll_read(context, &mut free))?;
        let read = free.filled().len();
        self.filled += read;
        if read == 0 {
            self.ready = self.filled;
        } else {
            self.scan();
        }
        Poll::Ready(Ok(read == 0))
    }

    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = buffer.remaining().min(self.ready - self.given);
        buffer.put_slice(&self.octets[self.given..self.given + count]);
        self.given += count;
    }
}

/// Mends the frame at the front and returns its length with its head; `None` when more of it is
/// needed. Of a frame that is not to be looked into, the head is enough.
fn mend_frame(held: &mut [u8]) -> Option<usize> {
    let (head, rest) = held.split_first_chunk_mut::<HEAD>()?;
    let [a, b, c, kind, flags, ..] = *head;
    let length = u32::from_be_bytes([0, a, b, c]);
    let size = usize::try_from(length).ok()?;
    if kind == HEADERS && length <= MAX_FRAME {
        let payload = rest.get_mut(..size)?;
        if let Some(fragment) = fragment(flags, payload) {
            hpack::mend_block(fragment);
        }
    }
    Some(HEAD + size)
}

/// The part of a HEADERS frame that belongs to the header block (RFC 9113, section 6.2): without
/// the length of the padding, the five octets of priority and the padding itself.
fn fragment(flags: u8, payload: &mut [u8]) -> Option<&mut [u8]> {
    let (mut start, mut end) = (0, payload.len());
    if flags & PADDED != 0 {
        start = 1;
        end = end.checked_sub(usize::from(*payload.first()?))?;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    payload.get_mut(start..end)
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, inbox } = self.get_mut();
        while inbox.given == inbox.ready {
            if ready!(inbox.fill(stream, context))? {
                break;
            }
        }
        inbox.hand_out(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for Mended<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    const BLOCK: &[u8] = b"\x41\x04%2Fa";
    const MENDED: &[u8] = b"\x41\x04-2Fa";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What an inbox lets pass when it gets the pieces one after the other, and what it holds back.
    fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Vec<u8>) {
        let mut inbox = Inbox::default();
        for piece in pieces {
            inbox.octets.extend_from_slice(piece);
            inbox.filled += piece.len();
            inbox.scan();
        }
        let held = inbox.octets.split_off(inbox.ready);
        (inbox.octets, held)
    }

    #[test]
    fn a_frame_is_mended_however_it_arrives() {
        let sent = [PREFACE, &frame(4, 0, &[]), &frame(HEADERS, 4, BLOCK), &frame(0, 1, BLOCK)].concat();
        let wanted = [PREFACE, &frame(4, 0, &[]), &frame(HEADERS, 4, MENDED), &frame(0, 1, BLOCK)].concat();
        assert_eq!(scan([&sent[..]]), (wanted.clone(), vec![]));
        assert_eq!(scan(sent.chunks(1)), (wanted.clone(), vec![]));
        for end in 0..sent.len() {
            let (passed, held) = scan([&sent[..end], &sent[end..]]);
            assert_eq!((passed, held.len()), (wanted.clone(), 0), "cut at {end}");
        }
    }

    #[test]
    fn padding_and_priority_are_stepped_over() {
        let padded = |block: &[u8]| [&[5], block, b"\x41\x03/%/"].concat();
        let both = |block: &[u8]| [&[5][..], &[0; 5], block, b"\x41\x03/%/"].concat();
        let priority = |block: &[u8]| [&[0; 5], block].concat();
        for (flags, sent, wanted) in [
            (PADDED, padded(BLOCK), padded(MENDED)),
            (PADDED | PRIORITY, both(BLOCK), both(MENDED)),
            (PRIORITY, priority(BLOCK), priority(MENDED)),
        ] {
            let (passed, held) = scan([PREFACE, &frame(HEADERS, flags, &sent)]);
            assert_eq!(&passed[PREFACE.len()..], frame(HEADERS, flags, &wanted));
            assert_eq!(held, b"");
        }
    }

    #[test]
    fn impossible_lengths_pass_unchanged() {
        for (flags, payload) in [
            (PADDED, &b""[..]),
            (PADDED, b"\xff\x41\x01/"),
            (PADDED, b"\x03\x41\x01/"),
            (PRIORITY, b"\x41\x01/"),
            (PADDED | PRIORITY, b"\x00\x41\x01/"),
        ] {
            let sent = frame(HEADERS, flags, payload);
            assert_eq!(scan([PREFACE, &sent]).0[PREFACE.len()..], sent);
        }
    }

    #[test]
    fn other_frames_pass_before_they_are_complete() {
        let whole = frame(0, 0, &[b'/'; 100]);
        assert_eq!(scan([PREFACE, &whole[..50]]).1, b"");
        let oversized = [&(MAX_FRAME + 1).to_be_bytes()[1..], &[HEADERS, 4, 0, 0, 0, 1], BLOCK].concat();
        assert_eq!(scan([PREFACE, &oversized]), ([PREFACE, &oversized].concat(), vec![]));
    }

    #[test]
    fn only_headers_that_lack_their_end_are_held_back() {
        let largest = frame(HEADERS, 4, &vec![0; MAX_FRAME as usize]);
        let (passed, held) = scan([PREFACE, &largest[..largest.len() - 1]]);
        assert_eq!((passed.len(), held.len()), (PREFACE.len(), largest.len() - 1));
        assert_eq!(scan([PREFACE, &largest]).1, b"");
    }

    #[test]
    fn a_preface_is_awaited_and_anything_else_passes() {
        for end in 0..PREFACE.len() {
            assert_eq!(scan([&PREFACE[..end]]), (vec![], PREFACE[..end].to_vec()));
        }
        for other in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r/", b"\0"] {
            let tail = frame(HEADERS, 4, BLOCK);
            assert_eq!(scan(other.chunks(3).chain([&tail[..]])), ([other, &tail].concat(), vec![]));
        }
    }
}
