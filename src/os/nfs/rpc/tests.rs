#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::os::Error;
use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

const LIMIT: Duration = Duration::from_secs(1);
const V4: Program = Program { number: NFS, version: 4 };

/// Answers each call with the bytes that a function makes of its id, then closes.
pub(in crate::os::nfs) struct Server {
    pub(in crate::os::nfs) address: SocketAddr,
    calls: Arc<Mutex<Vec<(u32, u32, u32)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(in crate::os::nfs) fn start(answer: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Self {
        Self::serve(move |stream, id| {
            let _closed_already = stream.write_all(&answer(id));
        })
    }

    fn serve(talk: impl Fn(&mut TcpStream, u32) + Send + 'static) -> Self {
        Self::serve_at("127.0.0.1:0", talk)
    }

    fn serve_at(place: &str, talk: impl Fn(&mut TcpStream, u32) + Send + 'static) -> Self {
        let listener = TcpListener::bind(place).unwrap();
        let address = listener.local_addr().unwrap();
        let calls: Arc<Mutex<Vec<_>>> = Arc::default();
        let seen = Arc::clone(&calls);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut head = [0; 44];
                // The connection that ends the thread says nothing.
                if stream.read_exact(&mut head).is_err() {
                    return;
                }
                let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
                assert_eq!((word(8), word(12)), (CALL, RPC_VERSION));
                let mut arguments = vec![0; (word(0) & !LAST) as usize - 40];
                stream.read_exact(&mut arguments).unwrap();
                seen.lock().unwrap().push((word(16), word(20), word(24)));
                talk(&mut stream, word(4));
            }
        });
        Self { address, calls, thread: Some(thread) }
    }

    pub(in crate::os::nfs) fn calls(&self) -> Vec<(u32, u32, u32)> {
        self.calls.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(TcpStream::connect(self.address));
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// An address of this host that refuses or drops; whoever listens on the other one is not there.
pub(in crate::os::nfs) fn dropped_by() -> SocketAddr {
    "127.0.0.77:1".parse().unwrap()
}

fn record(words: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    [&(LAST | u32::try_from(body.len()).unwrap()).to_be_bytes()[..], &body].concat()
}

/// A successful answer.
pub(in crate::os::nfs) fn accepted(id: u32, results: &[u32]) -> Vec<u8> {
    record(&[&[id, REPLY, 0, 0, 0, 0], results].concat())
}

fn text(error: &Error) -> String {
    format!("{error}: {}", std::error::Error::source(error).unwrap())
}

#[test]
fn an_answer_is_understood() {
    let server = Server::start(|id| accepted(id, &[]));
    ping(server.address, V4, LIMIT).unwrap();
    assert_eq!(server.calls(), [(NFS, 4, NULL)]);
    // With a verifier of five bytes, and in two fragments.
    let server = Server::start(|id| {
        let whole = record(&[id, REPLY, 0, 1, 5, 0xffff_ffff, 0xff00_0000, 0]);
        [&12_u32.to_be_bytes()[..], &whole[4..16], &(LAST | 20).to_be_bytes(), &whole[16..]].concat()
    });
    ping(server.address, V4, LIMIT).unwrap();
}

#[test]
fn ports_are_asked_for() {
    for (answer, port) in [(2049, Some(2049)), (0, None)] {
        let server = Server::start(move |id| accepted(id, &[answer]));
        assert_eq!(port_of(server.address, Program { number: MOUNTD, version: 3 }, LIMIT).unwrap(), port);
        assert_eq!(server.calls(), [(PORTMAP.number, 2, GETPORT)]);
    }
    for odd in [&[][..], &[70_000], &[1, 2]] {
        let odd = odd.to_vec();
        let server = Server::start(move |id| accepted(id, &odd));
        assert!(port_of(server.address, V4, LIMIT).is_err());
    }
}

/// `text` as an answer has it.
fn words_of(text: &[u8]) -> Vec<u32> {
    let mut padded = text.to_vec();
    padded.resize(text.len().next_multiple_of(4), 0);
    let length = u32::try_from(text.len()).unwrap();
    let words = padded.chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap()));
    [length].into_iter().chain(words).collect()
}

#[test]
fn ports_of_ipv6_are_asked_for_as_such() {
    let program = Program { number: MOUNTD, version: 3 };
    let ask = |answer: Vec<u32>| {
        let server = Server::serve_at("[::1]:0", move |stream, id| {
            let _closed_already = stream.write_all(&accepted(id, &answer));
        });
        let port = port_of(server.address, program, LIMIT);
        assert_eq!(server.calls(), [(100_000, 3, GETADDR)]);
        port
    };
    assert_eq!(ask(words_of(b"::.8.1")).unwrap(), Some(2049));
    assert_eq!(ask(words_of(b"fe80::1.219.131")).unwrap(), Some(56195));
    assert_eq!(ask(words_of(b"")).unwrap(), None);
    for odd in [&b"::"[..], b"1.256", b".", b"\xff.\xff.1"] {
        assert!(ask(words_of(odd)).is_err(), "{odd:?}");
    }
    assert!(ask(vec![100, 0]).is_err() && ask(Vec::new()).is_err());
}

#[test]
fn a_server_may_refuse() {
    let server = Server::start(|id| record(&[id, REPLY, 0, 0, 0, 2, 3, 3]));
    let error = ping(server.address, V4, LIMIT).unwrap_err();
    assert!(error.is_not_offered() && text(&error).contains("versions 3 to 3"), "{}", text(&error));
    let server = Server::start(|id| record(&[id, REPLY, 0, 0, 0, 1]));
    assert!(ping(server.address, V4, LIMIT).unwrap_err().is_not_offered());
    let server = Server::start(|id| record(&[id, REPLY, 1, 1, 1]));
    let error = ping(server.address, V4, LIMIT).unwrap_err();
    assert!(!error.is_not_offered() && text(&error).contains("denies"), "{}", text(&error));
    // Nobody listens there.
    let error = ping(dropped_by(), V4, LIMIT).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ECONNREFUSED));
}

#[test]
fn hostile_answers_are_errors() {
    type Answer = fn(u32) -> Vec<u8>;
    let answers: [(&str, Answer); 11] = [
        ("nothing", |_| Vec::new()),
        ("text", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("half a marker", |_| vec![0x80, 0]),
        ("less than announced", |id| accepted(id, &[])[..20].to_vec()),
        ("another id", |id| accepted(id.wrapping_add(1), &[])),
        ("a call", |id| record(&[id, CALL, 2, NFS, 4, 0, 0, 0, 0, 0])),
        ("an unknown status", |id| record(&[id, REPLY, 7])),
        ("a verifier longer than the answer", |id| record(&[id, REPLY, 0, 0, u32::MAX, 0])),
        ("a record of 2 GiB", |_| u32::MAX.to_be_bytes().to_vec()),
        ("fragments that grow for ever", |_| [[0, 0, 1, 0].as_slice(), &[0; 256]].concat().repeat(9)),
        ("empty fragments", |_| vec![0; 64]),
    ];
    for (what, answer) in answers {
        let server = Server::start(answer);
        let begin = Instant::now();
        let error = ping(server.address, V4, LIMIT).unwrap_err();
        assert!(!error.is_not_offered(), "{what}: {}", text(&error));
        assert!(begin.elapsed() < LIMIT * 4, "{what}");
    }
}

#[test]
fn drops_of_an_answer_do_not_prolong_the_limit() {
    let limit = Duration::from_millis(300);
    for pause in [Duration::from_millis(50), Duration::from_secs(1)] {
        let server = Server::serve(move |stream, id| {
            for byte in accepted(id, &[0; 20]) {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(pause);
            }
        });
        let begin = Instant::now();
        let error = ping(server.address, V4, limit).unwrap_err();
        assert!(text(&error).contains("no answer in time"), "{}", text(&error));
        assert!(begin.elapsed() >= limit && begin.elapsed() < limit * 3, "{:?}", begin.elapsed());
    }
}
