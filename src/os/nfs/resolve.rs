//! Names to addresses, with a limit that getaddrinfo(3) does not have.

use crate::os::{At as _, Error, Result};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Condvar, LazyLock, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How many names may be waited for at a time. A search for a dead name server ends by itself after half a
/// minute, and its thread with it; beyond this many no other is started.
const MOST: usize = 64;

/// A search needs little.
const STACK: usize = 256 << 10;

type Answer = Option<std::result::Result<Vec<SocketAddr>, String>>;

/// One search, which everybody who asks for the same name waits for.
#[derive(Default)]
struct Search {
    answer: Mutex<Answer>,
    ended: Condvar,
}

static RUNNING: LazyLock<Mutex<HashMap<String, Arc<Search>>>> = LazyLock::new(Mutex::default);

/// The addresses of a host in the order in which the host's configuration prefers them, each with `port`. A
/// literal, also in brackets, is its own answer; a name is looked up on a thread of its own and is an error
/// when the answer takes longer than `limit`.
pub fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>> {
    let plain = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = plain.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let search = search(plain)?;
    let deadline = Instant::now() + limit;
    let mut answer = search.answer.lock().unwrap_or_else(PoisonError::into_inner);
    while answer.is_none() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let late = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
            return Err(late).at("resolve the name", plain);
        }
        answer = search.ended.wait_timeout(answer, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    let addresses = match &*answer {
        Some(Ok(addresses)) => addresses.iter().map(|found| with_port(*found, port)).collect(),
        Some(Err(why)) => return Err(io::Error::other(why.clone())).at("resolve the name", plain),
        None => Vec::new(),
    };
    Ok(addresses)
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// The search for this name that is running already, or a new one.
fn search(host: &str) -> Result<Arc<Search>> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(search) = running.get(host) {
        return Ok(Arc::clone(search));
    }
    if running.len() >= MOST {
        return Err(Error::Unexpected(format!(
            "cannot resolve the name {host:?}: {MOST} other names are being waited for; see whether the name server answers"
        )));
    }
    let search = Arc::new(Search::default());
    let (name, theirs) = (host.to_owned(), Arc::clone(&search));
    let work = move || {
        let answer = match (name.as_str(), 0).to_socket_addrs() {
            Ok(found) => Ok(found.collect::<Vec<_>>()),
            Err(error) => Err(error.to_string()),
        };
        let answer = match answer {
            Ok(addresses) if addresses.is_empty() => Err("it has no address".to_owned()),
            answer => answer,
        };
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        *theirs.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        theirs.ended.notify_all();
    };
    thread::Builder::new()
        .name("resolve".into())
        .stack_size(STACK)
        .spawn(work)
        .at("resolve the name", host)?;
    running.insert(host.to_owned(), Arc::clone(&search));
    Ok(search)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn literals_are_their_own_answer() {
        for (host, address) in [
            ("192.0.2.1", "192.0.2.1:2049"),
            ("2001:db8::1", "[2001:db8::1]:2049"),
            ("[2001:db8::1]", "[2001:db8::1]:2049"),
        ] {
            assert_eq!(resolve(host, 2049, Duration::ZERO).unwrap(), [address.parse().unwrap()], "{host}");
        }
    }

    #[test]
    fn names_have_addresses_or_a_reason() {
        let found = resolve("localhost", 7, LIMIT).unwrap();
        assert!(
            !found.is_empty() && found.iter().all(|a| a.ip().is_loopback() && a.port() == 7),
            "{found:?}"
        );
        let begin = Instant::now();
        let error = resolve("no-such-host.invalid", 7, LIMIT).unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains("cannot resolve the name \"no-such-host.invalid\": "), "{text}");
        assert!(begin.elapsed() < LIMIT + Duration::from_secs(5));
    }

    #[test]
    fn a_late_answer_is_an_error_and_the_search_is_shared() {
        // As if a search were running that nobody answers.
        let name = "never-answered.invalid";
        let silent = Arc::new(Search::default());
        RUNNING.lock().unwrap().insert(name.to_owned(), Arc::clone(&silent));
        let begin = Instant::now();
        let error = resolve(name, 1, Duration::from_millis(100)).unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(5), "{error}");
        let waiting = thread::spawn(move || resolve(name, 1, LIMIT));
        *silent.answer.lock().unwrap() = Some(Ok(vec!["192.0.2.9:0".parse().unwrap()]));
        silent.ended.notify_all();
        assert_eq!(waiting.join().unwrap().unwrap(), ["192.0.2.9:1".parse().unwrap()]);
        RUNNING.lock().unwrap().remove(name);
    }
}
