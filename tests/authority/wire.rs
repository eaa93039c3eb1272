//! HTTP/2 as a client writes it, with every choice that HPACK leaves open taken at random.

use std::collections::VecDeque;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const CONTINUATION: u8 = 9;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const PRIORITY: u8 = 0x20;

pub type Field = (Vec<u8>, Vec<u8>);

/// A sequence of numbers that its seed decides (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // The seeds are small and neighbours: spread them (splitmix64's constant), never 0.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    pub fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }

    pub fn text(&mut self, count: usize, alphabet: &[u8]) -> Vec<u8> {
        (0..count).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }
}

/// Appends a frame.
pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

pub fn integer(out: &mut Vec<u8>, flags: u8, prefix: u32, mut value: usize) {
    let mask = (1 << prefix) - 1;
    if value < mask {
        return out.push(flags | value as u8);
    }
    out.push(flags | mask as u8);
    value -= mask;
    while value >= 128 {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn string(out: &mut Vec<u8>, text: &[u8], huffman: bool) {
    let mut coded = Vec::new();
    if huffman {
        httlib_huffman::encode(text, &mut coded).unwrap();
    } else {
        coded.extend_from_slice(text);
    }
    integer(out, u8::from(huffman) << 7, 7, coded.len());
    out.extend(coded);
}

/// An HPACK encoder that keeps a dynamic table of 4096 octets.
#[derive(Default)]
pub struct Encoder {
    table: VecDeque<Field>,
    size: usize,
}

impl Encoder {
    pub fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], random: &mut Random) {
        let known = self.table.iter().position(|field| field.0 == name && field.1 == value);
        if let Some(index) = known.filter(|_| !random.one_in(8)) {
            return integer(out, 0x80, 7, 62 + index);
        }
        let (flags, prefix) = [(0x40, 6), (0x40, 6), (0x00, 4), (0x10, 4)][random.below(4)];
        let index = if random.one_in(3) { 0 } else { static_index(name) };
        integer(out, flags, prefix, index);
        if index == 0 {
            string(out, name, random.one_in(2));
        }
        string(out, value, !random.one_in(3));
        if flags == 0x40 {
            self.insert(name, value);
        }
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.size += 32 + name.len() + value.len();
        self.table.push_front((name.to_vec(), value.to_vec()));
        while self.size > 4096 {
            let (name, value) = self.table.pop_back().unwrap();
            self.size -= 32 + name.len() + value.len();
        }
    }
}

fn static_index(name: &[u8]) -> usize {
    match name {
        b":authority" => 1,
        b":method" => 2,
        b":path" => 4,
        b":scheme" => 6,
        b"user-agent" => 58,
        _ => 0,
    }
}

/// A connection of a well-behaved client: some requests with frames of other kinds in between.
pub fn legal_connection(random: &mut Random) -> Vec<u8> {
    // Every code of at most 15 bits, and the octets that matter most often. `\` has 19 bits.
    const AUTHORITY: &[u8] = b"%/%/%2Fvar/lib.kubelet_plugins-registry~x.sock:0123456789@[]!$&'()*+,;=ABCDEFGHIJKLMNOPQRSTUVWXYZ^|{}<>`\" #?";
    let mut out = PREFACE.to_vec();
    let mut encoder = Encoder::default();
    let mut authority = Vec::new();
    frame(&mut out, 4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    for number in 0..1 + random.below(12) as u32 {
        if number == 0 || random.one_in(4) {
            let length = random.below(120);
            authority = random.text(length, AUTHORITY);
        }
        let stream = 2 * number + 1;
        request(&mut out, &mut encoder, &authority, stream, random);
        for _ in 0..random.below(3) {
            let most = if random.one_in(20) { 16_385 } else { 200 };
            let length = random.below(most);
            let payload = random.text(length, b"/%\x00\x01\x41\x44");
            frame(
                &mut out,
                [DATA, DATA, 8, 6, 77][random.below(5)],
                random.below(256) as u8,
                stream,
                &payload,
            );
        }
    }
    out
}

fn request(out: &mut Vec<u8>, encoder: &mut Encoder, authority: &[u8], stream: u32, random: &mut Random) {
    let mut block = Vec::new();
    let pseudo: [(&[u8], &[u8]); 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.%2F/B/%"), (b":authority", authority)];
    let first = random.below(4);
    for (name, value) in pseudo.iter().cycle().skip(first).take(4) {
        encoder.field(&mut block, name, value, random);
    }
    let pseudo_end = block.len();
    for _ in 0..random.below(12) {
        let name = format!("x-{}", random.below(50));
        let length = random.below(60);
        let value = random.text(length, b"%/\\\xc3abcXYZ0123 ");
        encoder.field(&mut block, name.as_bytes(), &value, random);
    }
    // The pseudo-header fields lie in the first fragment, the others anywhere.
    let cut =
        if random.one_in(3) { pseudo_end + random.below(block.len() - pseudo_end + 1) } else { block.len() };
    let (mut payload, mut flags) = (Vec::new(), 0);
    let padding = random.below(256);
    if random.one_in(3) {
        flags |= PADDED;
        payload.push(padding as u8);
    }
    if random.one_in(3) {
        flags |= PRIORITY;
        payload.extend([0, 0, 0, 0, 7]);
    }
    payload.extend_from_slice(&block[..cut]);
    if flags & PADDED != 0 {
        payload.extend(std::iter::repeat_n(b'%', padding));
    }
    if cut == block.len() {
        return frame(out, HEADERS, flags | END_HEADERS, stream, &payload);
    }
    frame(out, HEADERS, flags, stream, &payload);
    frame(out, CONTINUATION, END_HEADERS, stream, &block[cut..]);
}
