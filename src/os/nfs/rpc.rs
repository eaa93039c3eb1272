//! Three calls of ONC RPC (RFC 5531) over TCP, written by hand: NULL, which every program answers, and the port
//! mapper's GETPORT and GETADDR (RFC 1833). What comes back is not trusted.

use crate::os::{At as _, Result};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// A program number and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// As registered with IANA.
    pub number: u32,
    /// Major version: all minor versions of NFSv4 are 4.
    pub version: u32,
}

/// The number of NFS.
pub const NFS: u32 = 100_003;

/// The number of the protocol by which NFSv3 shares are mounted.
pub const MOUNTD: u32 = 100_005;

/// Knows ports of IPv4 alone.
const PORTMAP: Program = Program { number: 100_000, version: 2 };

/// Knows those of IPv6, where a program may have others.
const RPCBIND: Program = Program { number: 100_000, version: 3 };

/// Where the port mapper listens.
pub const PORTMAP_PORT: u16 = 111;

const NULL: u32 = 0;
const GETPORT: u32 = 3;
const TCP: u32 = 6;
const GETADDR: u32 = 3;
const TCP6: [u8; 4] = *b"tcp6";

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;

/// Of a record's marker, the bit that its last fragment carries.
const LAST: u32 = 1 << 31;

/// The answers that are expected have at most 28 bytes; a verifier may have 400 more.
const LONGEST: usize = 1024;

/// Asks for nothing, and so learns whether the program is there in this version.
pub fn ping(address: SocketAddr, program: Program, limit: Duration) -> Result<()> {
    call(address, program, NULL, &[], Instant::now() + limit).map(drop)
}

/// The TCP port of a program, from the port mapper at `mapper`. `None`: it is not registered there.
pub fn port_of(mapper: SocketAddr, program: Program, limit: Duration) -> Result<Option<u16>> {
    if mapper.is_ipv6() {
        return port_of_six(mapper, program, limit);
    }
    let mapping = [program.number, program.version, TCP, 0];
    let answer = call(mapper, PORTMAP, GETPORT, &mapping, Instant::now() + limit)?;
    let [a, b, c, d] = *answer.as_slice() else {
        return Err(odd("the port has not four bytes")).at("ask for a port at", mapper.to_string());
    };
    match u16::try_from(u32::from_be_bytes([a, b, c, d])) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(odd("the port is larger than any")).at("ask for a port at", mapper.to_string()),
    }
}

fn port_of_six(mapper: SocketAddr, program: Program, limit: Duration) -> Result<Option<u16>> {
    // A text is its length and its bytes; address and owner are empty.
    let network = [u32::try_from(TCP6.len()).unwrap_or_default(), u32::from_be_bytes(TCP6)];
    let mapping = [&[program.number, program.version][..], &network, &[0, 0]].concat();
    let answer = call(mapper, RPCBIND, GETADDR, &mapping, Instant::now() + limit)?;
    universal(&answer).at("ask for a port at", mapper.to_string())
}

/// The port in an address such as `::.8.1`: the bytes of the port come last. Nothing: not registered.
fn universal(answer: &[u8]) -> io::Result<Option<u16>> {
    let mut words = Words(answer);
    let length = words.next()? as usize;
    let text = words.0.get(..length).ok_or_else(|| odd("the address is too short"))?;
    if text.is_empty() {
        return Ok(None);
    }
    let mut parts =
        text.rsplit(|byte| *byte == b'.').map(|part| str::from_utf8(part).ok()?.parse::<u8>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(low), Some(high)) => Ok(Some(u16::from_be_bytes([high, low])).filter(|port| *port != 0)),
        _ => Err(odd("the address has no port")),
    }
}

fn call(
    address: SocketAddr,
    program: Program,
    procedure: u32,
    arguments: &[u32],
    deadline: Instant,
) -> Result<Vec<u8>> {
    let place = address.to_string();
    let stream = TcpStream::connect_timeout(&address, left(deadline).at("connect to", &place)?)
        .at("connect to", &place)?;
    let Program { number, version } = program;
    let asked = exchange(&stream, number, version, procedure, arguments, deadline);
    asked.at(format!("call program {number} version {version} at"), place)
}

/// What remains, or an error.
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        left => Ok(left),
    }
}

fn exchange(
    stream: &TcpStream,
    number: u32,
    version: u32,
    procedure: u32,
    arguments: &[u32],
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let id = std::process::id().rotate_left(16) ^ CALLS.fetch_add(1, Ordering::Relaxed);
    // No credentials and no verifier: flavour AUTH_NONE and length 0, twice.
    let head = [id, CALL, RPC_VERSION, number, version, procedure, 0, 0, 0, 0];
    let words = head.iter().chain(arguments);
    let body: Vec<u8> = words.flat_map(|word| word.to_be_bytes()).collect();
    let length = u32::try_from(body.len()).map_err(|_| odd("the call is too long"))?;
    let record = [&(LAST | length).to_be_bytes()[..], &body].concat();
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    (&*stream).write_all(&record).map_err(in_time)?;
    let answer = receive(stream, deadline)?;
    results(&answer, id)
}

/// One record, which a server may send in fragments of any size, a byte at a time.
fn receive(stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut record = Vec::new();
    loop {
        let mut marker = [0; 4];
        fill(stream, &mut marker, deadline)?;
        let marker = u32::from_be_bytes(marker);
        let length = (marker & !LAST) as usize;
        if length > LONGEST - record.len() {
            return Err(odd("the answer is longer than any that is right"));
        }
        let begin = record.len();
        record.resize(begin + length, 0);
        fill(stream, &mut record[begin..], deadline)?;
        if marker & LAST != 0 {
            return Ok(record);
        }
        if length == 0 {
            return Err(odd("the answer has an empty fragment"));
        }
    }
}

/// Like `read_exact`, with a limit for all of it and not for each byte.
fn fill(mut stream: &TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(odd("the connection was closed before the answer")),
            Ok(length) => buffer = &mut buffer[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(in_time(error)),
        }
    }
    Ok(())
}

/// A socket's time-out comes as EAGAIN.
fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        _ => error,
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: is this an NFS server?"))
}

/// Takes an answer apart (RFC 5531, section 9).
fn results(answer: &[u8], id: u32) -> io::Result<Vec<u8>> {
    let mut words = Words(answer);
    if words.next()? != id || words.next()? != REPLY {
        return Err(odd("this is no answer to the call"));
    }
    match words.next()? {
        0 => {}
        1 => return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the server denies the call")),
        _ => return Err(odd("the answer is neither accepted nor denied")),
    }
    let _flavour = words.next()?;
    let verifier = words.next()? as usize;
    words.skip(verifier)?;
    match words.next()? {
        0 => Ok(words.0.to_vec()),
        1 => Err(unsupported("the server does not offer it".into())),
        2 => {
            let (low, high) = (words.next()?, words.next()?);
            Err(unsupported(format!("the server offers versions {low} to {high}")))
        }
        _ => Err(odd("the server cannot answer the call")),
    }
}

fn unsupported(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what)
}

struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> io::Result<u32> {
        let (word, rest) = self.0.split_first_chunk().ok_or_else(|| odd("the answer is too short"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*word))
    }

    /// Opaque bytes, filled up to a multiple of four.
    fn skip(&mut self, length: usize) -> io::Result<()> {
        let filled = length.checked_next_multiple_of(4);
        let rest = filled.and_then(|length| self.0.get(length..));
        self.0 = rest.ok_or_else(|| odd("the answer is too short"))?;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
