//! Rewrites `:authority` inside an HPACK header block, in place.
//!
//! `%` and `/` become `-`. All three are one octet as they are and six bits in the Huffman code
//! (RFC 7541, appendix B), so no length changes, and an entry of the dynamic table keeps its size
//! (section 4.1): the client's table and h2's stay in step without a copy of either being kept here.
//!
//! The walk reads what a decoder reads and stops at the first thing that makes no sense, so what
//! lies behind a fault is left as it is, for h2 to judge.
//!
//! Not understood: a literal whose *name* is an entry of the dynamic table (index 62 and up). Its
//! meaning depends on all blocks before it; encoders take `:authority` from the static table, where
//! it is the first entry.

/// Index of `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY: &[u8] = b":authority";
/// `:authority` in the Huffman code; the last bit is padding.
const AUTHORITY_HUFFMAN: &[u8] = b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f";

const PERCENT: u16 = 0b01_0101;
const SLASH: u16 = 0b01_1000;
const DASH: u16 = 0b01_0110;

/// Mends every literal `:authority` of a header block, or of its first fragment.
pub(super) fn mend_block(block: &mut [u8]) {
    let mut rest = Rest(block);
    while mend_field(&mut rest).is_some() {}
}

/// Walks one representation (RFC 7541, section 6); `None` where the block ends or makes no sense.
fn mend_field(rest: &mut Rest<'_>) -> Option<()> {
    let (prefix, literal) = match *rest.0.first()? {
        0x80.. => (7, false),      // 6.1: a field of the tables
        0x40..=0x7f => (6, true),  // 6.2.1: literal, added to the dynamic table
        0x20..=0x3f => (5, false), // 6.3: size of the dynamic table
        0x00..=0x1f => (4, true),  // 6.2.2, 6.2.3: literal, not added
    };
    let index = rest.integer(prefix)?;
    if !literal {
        return Some(());
    }
    let is_authority = match index {
        0 => rest.string()?.is_authority(),
        _ => index == AUTHORITY_INDEX,
    };
    let value = rest.string()?;
    if is_authority {
        value.mend();
    }
    Some(())
}

/// The part of a block that is still to be read.
struct Rest<'a>(&'a mut [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a mut [u8]> {
        // `split_off_mut` leaves the slice alone when it is too short.
        self.0.split_off_mut(..count)
    }

    /// Reads an integer (RFC 7541, section 5.1) of as many octets as h2 reads, five.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let mask = (1 << prefix) - 1;
        let mut value = usize::from(*self.take(1)?.first()?) & mask;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let octet = usize::from(*self.take(1)?.first()?);
            value += (octet & 0x7f) << shift;
            if octet < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a string (RFC 7541, section 5.2).
    fn string(&mut self) -> Option<Text<'a>> {
        let huffman = *self.0.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        Some(Text { octets: self.take(length)?, huffman })
    }
}

/// A string of a header block.
struct Text<'a> {
    octets: &'a mut [u8],
    huffman: bool,
}

impl Text<'_> {
    fn is_authority(&self) -> bool {
        *self.octets == *if self.huffman { AUTHORITY_HUFFMAN } else { AUTHORITY }
    }

    fn mend(self) {
        if self.huffman {
            return mend_huffman(self.octets);
        }
        for octet in self.octets {
            if matches!(octet, b'%' | b'/') {
                *octet = b'-';
            }
        }
    }
}

/// Goes from code to code and flips those bits in which `%` or `/` differs from `-`.
fn mend_huffman(octets: &mut [u8]) {
    let bits = octets.len() * 8;
    let mut at = 0;
    loop {
        let window = window(octets, at);
        let Some(length) = code_length(window).filter(|length| at + length <= bits) else {
            return;
        };
        if length == 6 {
            let [high, low, ..] = window.to_be_bytes();
            match u16::from_be_bytes([high, low]) >> 10 {
                PERCENT => flip(octets, at, PERCENT ^ DASH),
                SLASH => flip(octets, at, SLASH ^ DASH),
                _ => {}
            }
        }
        at += length;
    }
}

/// The 25 bits from bit `at` on, in the upper end of the word; below them, and behind the string's
/// end, stand ones, which begin no code that [`code_length`] knows.
fn window(octets: &[u8], at: usize) -> u32 {
    let octet = |i| octets.get(at / 8 + i).copied().unwrap_or(0xff);
    let word = u32::from_be_bytes([octet(0), octet(1), octet(2), octet(3)]);
    word << (at % 8) | ((1 << (at % 8)) - 1)
}

/// How long the code at the upper end of `window` is.
///
/// The code is canonical (RFC 7541, appendix B): sorted by length, the codes are also sorted by
/// value, so the first limit above the window tells the length. `None` for codes of 19 bits and
/// more. They stand for `\`, for what is not ASCII and for the end of the string, and h2 refuses an
/// authority that holds any of these.
fn code_length(window: u32) -> Option<usize> {
    const LIMITS: [(u32, usize); 10] = [
        (0x5000_0000, 5),
        (0xb800_0000, 6),
        (0xf800_0000, 7),
        (0xfe00_0000, 8),
        (0xff40_0000, 10),
        (0xffa0_0000, 11),
        (0xffc0_0000, 12),
        (0xfff0_0000, 13),
        (0xfff8_0000, 14),
        (0xfffe_0000, 15),
    ];
    LIMITS.iter().find(|(limit, _)| window < *limit).map(|(_, length)| *length)
}

/// Flips, in the six bits from bit `at` on, those that are set in `mask`.
fn flip(octets: &mut [u8], at: usize, mask: u16) {
    let [high, low] = (mask << 10 >> (at % 8)).to_be_bytes();
    for (octet, mask) in octets.iter_mut().skip(at / 8).zip([high, low]) {
        *octet ^= mask;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    fn huffman(text: &[u8]) -> Vec<u8> {
        let mut coded = Vec::new();
        httlib_huffman::encode(text, &mut coded).unwrap();
        coded
    }

    fn mended(block: &[u8]) -> Vec<u8> {
        let mut block = block.to_vec();
        mend_block(&mut block);
        block
    }

    /// A string with its length, as long as it is shorter than 127 octets.
    fn string(text: &[u8], coded: bool) -> Vec<u8> {
        let octets = if coded { huffman(text) } else { text.to_vec() };
        assert!(octets.len() < 127);
        [&[u8::from(coded) << 7 | octets.len() as u8], &octets[..]].concat()
    }

    #[test]
    fn the_constants_are_the_codes_of_the_standard() {
        assert_eq!(AUTHORITY_HUFFMAN, huffman(AUTHORITY));
        for (octet, code) in [(b'%', PERCENT), (b'/', SLASH), (b'-', DASH)] {
            assert_eq!(huffman(&[octet]), [(code << 2 | 0b11) as u8]);
        }
    }

    #[test]
    fn the_length_of_every_code_is_known_or_above_15() {
        for octet in 0..=u8::MAX {
            // Eight equal codes end at an octet's border: their octets are the code's bits.
            let bits = huffman(&[octet; 8]).len();
            let known = code_length(window(&huffman(&[octet; 8]), 0));
            assert_eq!(known, Some(bits).filter(|bits| *bits < 19), "octet {octet:#x}");
        }
    }

    #[test]
    fn every_offset_within_an_octet_is_mended() {
        // `0` has a code of 5 bits, `b` of 6, `:` of 7, `&` of 8, `!` of 10: all offsets occur.
        for before in ["", "0", "00", "000", "0000", "b", "b0", ":", "&", "!", "!:0"] {
            for after in ["", "0", "%", "/", "2Fvar%2F"] {
                for wanted in ["%", "/", "%/", "//%%"] {
                    let sent = format!("{before}{wanted}{after}");
                    let mut coded = huffman(sent.as_bytes());
                    mend_huffman(&mut coded);
                    assert_eq!(coded, huffman(sent.replace(['%', '/'], "-").as_bytes()), "{sent}");
                }
            }
        }
    }

    #[test]
    fn every_way_to_write_the_name_is_understood() {
        for coded in [false, true] {
            for first in [&b"\x41"[..], b"\x01", b"\x11"] {
                let sent = [first, &string(b"%2Fa/b", coded)].concat();
                assert_eq!(mended(&sent), [first, &string(b"-2Fa-b", coded)].concat());
            }
            for first in [&b"\x40"[..], b"\x00", b"\x10"] {
                for name in [false, true] {
                    let name = string(AUTHORITY, name);
                    let sent = [first, &name, &string(b"/a%", coded)].concat();
                    assert_eq!(mended(&sent), [first, &name, &string(b"-a-", coded)].concat());
                }
            }
        }
    }

    #[test]
    fn other_fields_stay_as_they_are() {
        let authority = [b"\x41", &string(b"/%", true)[..]].concat();
        let others = [
            &b"\x20\x3f\xe1\x1f"[..],                         // table sizes 0 and 4096
            &b"\x82\xbe"[..],                                 // :method GET, an entry of the dynamic table
            &[b"\x44", &string(b"/a%/b", true)[..]].concat(), // :path
            &[b"\x00", &string(b"x-a", false)[..], &string(b"/%", false)].concat(),
            &[b"\x7e", &string(b"/%", true)[..]].concat(), // a name of the dynamic table
        ]
        .concat();
        let sent = [&others[..], &authority, &others].concat();
        let wanted = [&others[..], &[b"\x41", &string(b"--", true)[..]].concat(), &others].concat();
        assert_eq!(mended(&sent), wanted);
    }

    #[test]
    fn the_walk_ends_where_the_block_makes_no_sense() {
        let authority = [b"\x41", &string(b"/%", false)[..]].concat();
        let too_long = [&b"\x7f\x80\x80\x80\x80\x00\x00"[..], &authority].concat();
        assert_eq!(mended(&too_long), too_long);
        let five_octets = [&b"\x7f\x80\x80\x80\x00\x00"[..], &authority].concat();
        assert!(mended(&five_octets).ends_with(b"--"));
        for end in 0..authority.len() {
            assert_eq!(mended(&authority[..end]), &authority[..end], "a fragment of {end} octets");
        }
    }

    #[test]
    fn bits_that_are_no_whole_code_stay() {
        // `0`, `-` and five bits: with a one behind them they would be a `%`.
        let mut coded = [0b0000_0010, 0b1100_1010];
        mend_huffman(&mut coded);
        assert_eq!(coded, [0b0000_0010, 0b1100_1010]);
    }

    #[test]
    fn what_follows_a_long_code_is_left_to_h2() {
        let mut coded = huffman(b"/\\/");
        mend_huffman(&mut coded);
        assert_eq!(coded, huffman(b"-\\/"));
    }
}
