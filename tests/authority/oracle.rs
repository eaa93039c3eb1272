//! Two second opinions, written without a look at the adapter: what a whole connection means, by an
//! HPACK decoder of another project, and where the authorities lie in octets that mean nothing.

use crate::wire::{CONTINUATION, END_HEADERS, Field, HEADERS, PADDED, PREFACE, PRIORITY};
use std::ops::Range;

/// The frames of a connection, as (kind, flags, payload); a last one that is cut off is left out.
pub fn frames(connection: &[u8]) -> Vec<(u8, u8, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = PREFACE.len();
    while let Some(head) = connection.get(at..at + 9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if at + 9 + length > connection.len() {
            break;
        }
        found.push((head[3], head[4], at + 9..at + 9 + length));
        at += 9 + length;
    }
    found
}

/// The header block's part of a HEADERS or CONTINUATION frame.
pub fn fragment(connection: &[u8], (kind, flags, payload): &(u8, u8, Range<usize>)) -> Option<Range<usize>> {
    let (mut start, mut end) = (payload.start, payload.end);
    if *kind == HEADERS && flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*connection[payload.clone()].first()?))?;
        start += 1;
    }
    if *kind == HEADERS && flags & PRIORITY != 0 {
        start += 5;
    }
    (start <= end).then_some(start..end)
}

/// All header lists of a legal connection, and every octet of it that is in no header block.
pub fn decode(connection: &[u8]) -> (Vec<Vec<Field>>, Vec<u8>) {
    let mut decoder = loona_hpack::Decoder::new();
    let (mut lists, mut block, mut others, mut behind) = (vec![], vec![], vec![], 0);
    for frame in frames(connection) {
        if frame.0 != HEADERS && frame.0 != CONTINUATION {
            continue;
        }
        let part = fragment(connection, &frame).unwrap();
        others.extend_from_slice(&connection[behind..part.start]);
        behind = part.end;
        block.extend_from_slice(&connection[part]);
        if frame.1 & END_HEADERS != 0 {
            lists.push(decoder.decode(&block).unwrap());
            block.clear();
        }
    }
    others.extend_from_slice(&connection[behind..]);
    (lists, others)
}

/// Where a header block has values of `:authority`, each with whether it is Huffman coded.
pub fn authorities(block: &[u8]) -> Vec<(Range<usize>, bool)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = representation(block, at, &mut found) {
        at = next;
    }
    found
}

fn representation(block: &[u8], at: usize, found: &mut Vec<(Range<usize>, bool)>) -> Option<usize> {
    let first = *block.get(at)?;
    if first & 0x80 != 0 {
        return integer(block, at, 7).map(|(_, next)| next);
    }
    if first >> 5 == 0b001 {
        return integer(block, at, 5).map(|(_, next)| next);
    }
    let (index, mut at) = integer(block, at, if first & 0x40 != 0 { 6 } else { 4 })?;
    let mut authority = index == 1;
    if index == 0 {
        let (name, huffman) = string(block, at)?;
        at = name.end;
        authority = text(&block[name], huffman).is_some_and(|name| name == b":authority");
    }
    let (value, huffman) = string(block, at)?;
    at = value.end;
    if authority {
        found.push((value, huffman));
    }
    Some(at)
}

fn integer(block: &[u8], at: usize, prefix: u32) -> Option<(usize, usize)> {
    let mask = 2usize.pow(prefix) - 1;
    let start = usize::from(*block.get(at)?) & mask;
    if start < mask {
        return Some((start, at + 1));
    }
    let more = block[at + 1..].iter().take(4);
    let length = more.clone().position(|octet| octet & 0x80 == 0)? + 1;
    let value =
        more.take(length).enumerate().map(|(i, octet)| usize::from(octet & 0x7f) << (7 * i)).sum::<usize>();
    Some((start + value, at + 1 + length))
}

fn string(block: &[u8], at: usize) -> Option<(Range<usize>, bool)> {
    let huffman = block.get(at)? & 0x80 != 0;
    let (length, start) = integer(block, at, 7)?;
    (start + length <= block.len()).then_some((start..start + length, huffman))
}

/// What a string says; `None` when it is no Huffman code.
pub fn text(octets: &[u8], huffman: bool) -> Option<Vec<u8>> {
    if !huffman {
        return Some(octets.to_vec());
    }
    let mut text = Vec::new();
    let decoded = httlib_huffman::decode(octets, &mut text, httlib_huffman::DecoderSpeed::FiveBits);
    decoded.ok().map(|()| text)
}

pub fn mended(text: &[u8]) -> Vec<u8> {
    text.iter().map(|octet| if matches!(octet, b'%' | b'/') { b'-' } else { *octet }).collect()
}
