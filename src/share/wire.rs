//! What driver and child say to each other: JSON behind its length, never longer than [`LONGEST`].

use super::Failure;
use crate::os::{
    mount::Attributes,
    nfs::{Attempt, Version},
    space::Space,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, ErrorKind, Read, Write},
    path::PathBuf,
};

/// The longest message. Ten thousand records in one answer have about half of it.
pub const LONGEST: usize = 16 << 20;

/// How much is read at a time: the length that a message announces is not believed before it is there.
const PIECE: usize = 64 << 10;

/// What is mounted. All but `Nfs` are for tests on machines whose kernel has no NFS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A share, with the first of several versions that both sides have.
    Nfs {
        /// `server:/path`, a literal IPv6 address in brackets.
        source: String,
        /// The versions in their order.
        attempts: Vec<Attempt>,
    },
    /// A filesystem of this host.
    Local {
        /// As mount(2) takes it.
        source: PathBuf,
        /// Its type.
        fstype: String,
        /// Its options.
        data: String,
    },
}

impl What {
    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::Nfs { source, .. } => source.clone(),
            Self::Local { source, .. } => source.display().to_string(),
        }
    }
}

/// The first message to a child: what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Mounts in a namespace of its own and serves operations until the socket ends.
    Serve {
        /// What.
        what: What,
    },
    /// Enters a helper's namespace, says so, and forces its mount until it is gone.
    Force {
        /// The helper.
        process: i32,
    },
    /// Mounts on a path of the host.
    Mount {
        /// What.
        what: What,
        /// The directory of it that is wanted; empty: its root.
        below: PathBuf,
        /// Where.
        target: PathBuf,
        /// Restrictions of the mount.
        attributes: Attributes,
        /// What the inode number of its root has to be, if that is known.
        fileid: Option<u64>,
        /// The id of the mount there that has to go first, once the new one is known to be good.
        instead_of: Option<u64>,
    },
    /// Mounts where nobody sees it, and tells what that is.
    Find {
        /// What.
        what: What,
    },
    /// Binds what is mounted at one path of the host on another one, once the server has told its attributes.
    Bind {
        /// What is mounted.
        source: PathBuf,
        /// Where it is wanted, too.
        target: PathBuf,
        /// Restrictions of the new mount.
        attributes: Attributes,
        /// What the inode number of its root has to be, if that is known.
        fileid: Option<u64>,
    },
    /// Asks the server of a mount for its root's attributes.
    Ask {
        /// Where it is.
        path: PathBuf,
    },
    /// Asks a mount for its figures.
    Figures {
        /// Where it is.
        path: PathBuf,
    },
    /// Takes a mount away, by one of three ways.
    Unmount {
        /// Where it is.
        target: PathBuf,
        /// How.
        way: Way,
        /// The types on which another way than the plain one is allowed.
        filesystems: Vec<String>,
    },
}

/// How a mount is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// As always.
    Plain,
    /// What waits for the server is given up. Never where another volume uses the superblock.
    Force,
    /// Its users keep it, no path leads there any more.
    Lazy,
}

/// What a child of a single task answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// It is inside the namespace; `false`: there is none any more.
    Inside(bool),
    /// The mount is made.
    Mounted {
        /// Of a share.
        version: Option<Version>,
        /// The inode number of what was mounted.
        fileid: u64,
        /// The mount's id, as mountinfo shows it.
        id: u64,
    },
    /// What a mount is of.
    Found(Found),
    /// The inode number of a mount's root, as the server tells it.
    Root(u64),
    /// The figures.
    Figures(Space),
    /// It is done.
    Nothing,
}

/// A directory of a filesystem that is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Of its superblock, as mountinfo shows it.
    pub device: u64,
    /// Its inode number, as the server tells it.
    pub fileid: u64,
}

/// What a helper is told after its role.
#[derive(Clone, Serialize, Deserialize)]
pub enum Request<O> {
    /// Carry an operation out.
    Call {
        /// Comes back with the answer.
        id: u64,
        /// What.
        operation: O,
    },
    /// Ask the server for the root's attributes: it answers if the server does.
    Look {
        /// Comes back with the answer.
        id: u64,
    },
    /// The driver ends: long operations stop at the next good place.
    Stop,
}

/// What a helper says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply<A> {
    /// The share is mounted and answers; or why not.
    Ready(Result<Option<Version>, Failure>),
    /// An operation has ended.
    Ended {
        /// Which.
        id: u64,
        /// How.
        result: Result<A, Failure>,
    },
    /// The root's attributes came.
    Looked {
        /// Which request.
        id: u64,
        /// Or why not.
        result: Result<(), Failure>,
    },
    /// An operation is still moving.
    Progress {
        /// Which.
        id: u64,
        /// How far.
        done: u64,
        /// Of how much; 0: unknown.
        total: u64,
    },
}

/// Writes one message.
pub fn send<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    // The place of the length comes first, so that one write carries all.
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > LONGEST {
        let text = format!("a message of {length} bytes is longer than {LONGEST}");
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    let length = u32::try_from(length).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    to.write_all(&frame)
}

/// What came of a look at a socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// A message.
    Message(T),
    /// Nothing whole within the socket's time-out. What has come is kept.
    Nothing,
    /// The other side has ended.
    End,
}

/// Takes messages out of a stream, also when they come in pieces between two time-outs.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
}

impl Receiver {
    /// The next message.
    pub fn receive<T: DeserializeOwned>(&mut self, mut from: impl Read) -> io::Result<Received<T>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Received::Message(message));
            }
            let begin = self.bytes.len();
            self.bytes.resize(begin + PIECE, 0);
            let read = from.read(&mut self.bytes[begin..]);
            self.bytes.truncate(begin + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) if begin == 0 => return Ok(Received::End),
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "a message was cut off")),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(Received::Nothing);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Received::End),
                Err(error) => return Err(error),
            }
        }
    }

    fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((length, rest)) = self.bytes.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST {
            let text = format!("a message of {length} bytes was announced, {LONGEST} are the most");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(message)?;
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            // One large answer shall not occupy its room for ever.
            self.bytes = Vec::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use std::{collections::VecDeque, os::unix::net::UnixStream, time::Duration};

    /// Gives what it has in the given pieces; an empty one is a time-out.
    struct Pieces(VecDeque<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.pop_front() {
                None => Ok(0),
                Some(piece) if piece.is_empty() => Err(ErrorKind::WouldBlock.into()),
                Some(piece) => {
                    buffer[..piece.len()].copy_from_slice(&piece);
                    Ok(piece.len())
                }
            }
        }
    }

    fn frames(messages: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| send(&mut bytes, message).unwrap());
        bytes
    }

    #[test]
    fn messages_in_any_pieces() {
        let bytes = frames(&["one", "", "drei — ü"]);
        for size in 1..=bytes.len() {
            let mut pieces: VecDeque<_> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            pieces.insert(1, Vec::new());
            let (mut pieces, mut receiver) = (Pieces(pieces), Receiver::default());
            let mut found = Vec::new();
            loop {
                match receiver.receive::<String>(&mut pieces).unwrap() {
                    Received::Message(message) => found.push(message),
                    Received::Nothing => {}
                    Received::End => break,
                }
            }
            assert_eq!(found, ["one", "", "drei — ü"], "{size}");
        }
    }

    #[test]
    fn what_is_too_long_cut_off_or_no_json_is_an_error() {
        let receive = |bytes: &[u8]| Receiver::default().receive::<String>(bytes).map_err(|e| e.kind());
        assert_eq!(receive(&u32::MAX.to_be_bytes()), Err(ErrorKind::InvalidData));
        assert_eq!(receive(&frames(&["abc"])[..6]), Err(ErrorKind::UnexpectedEof));
        assert_eq!(receive(b"\0\0\0\x02{}"), Err(ErrorKind::InvalidData));
        assert_eq!(receive(b"\0\0\0\0"), Err(ErrorKind::UnexpectedEof));
        assert_eq!(receive(b""), Ok(Received::End));
        let error = send(io::sink(), &"x".repeat(LONGEST)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        send(io::sink(), &"x".repeat(LONGEST - 2)).unwrap();
    }

    #[test]
    fn a_timeout_loses_nothing() {
        let (here, mut there) = UnixStream::pair().unwrap();
        here.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let bytes = frames(&["whole"]);
        let mut receiver = Receiver::default();
        there.write_all(&bytes[..5]).unwrap();
        assert_eq!(receiver.receive::<String>(&here).unwrap(), Received::Nothing);
        there.write_all(&bytes[5..]).unwrap();
        assert_eq!(receiver.receive::<String>(&here).unwrap(), Received::Message("whole".into()));
        drop(there);
        assert_eq!(receiver.receive::<String>(&here).unwrap(), Received::End);
    }
}
