//! Where ranks meet: a small key-value store over TCP that speaks the protocol of torch's `TCPStore`
//! (`torch/csrc/distributed/c10d/TCPStoreBackend.hpp`, torch 2.9), so that under torchrun the agent's
//! own store is used, and elsewhere rank 0 or `trainer launch` serves one.
//!
//! Numbers are little-endian; a text is its length as u64, then its bytes. A request is a byte that
//! names it, then its arguments. The store has neither authentication nor encryption: it belongs
//! into a private network, as torch's does.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::seconds;

/// First bytes of every connection, after the request's byte.
const MAGIC: u32 = 0x3C85_F7CE;
/// Longest key and value, bytes: what is exchanged here are addresses and counters.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// Keys of one request.
const KEYS_MAX: u64 = 1 << 16;
/// Keys and values that the server keeps, bytes.
const STORE_BYTES_MAX: usize = 64 << 20;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

mod request {
    pub const VALIDATE: u8 = 0;
    pub const SET: u8 = 1;
    pub const GET: u8 = 3;
    pub const ADD: u8 = 4;
    pub const CHECK: u8 = 5;
    pub const WAIT: u8 = 6;
    pub const DELETE: u8 = 8;
    pub const CANCEL_WAIT: u8 = 12;
    pub const PING: u8 = 13;
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn take<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take_text(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = u64::from_le_bytes(take(input)?);
    if length > TEXT_BYTES_MAX {
        return Err(invalid("a text is too long"));
    }
    let mut text = vec![0; length as usize];
    input.read_exact(&mut text)?;
    Ok(text)
}

/// A connection to a store.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    address: String,
}

impl Client {
    /// Connects, trying again until `deadline` has passed: the server may start later than this.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect(host: &str, port: u16, deadline: Duration) -> io::Result<Self> {
        let until = Instant::now() + deadline;
        let address = format!("{host}:{port}");
        loop {
            match Self::try_connect(host, port, until) {
                Ok(stream) => {
                    let mut client = Self { stream: BufReader::new(stream), address };
                    let mut hello = vec![request::VALIDATE];
                    hello.extend(MAGIC.to_le_bytes());
                    client.send(&hello)?;
                    return Ok(client);
                }
                Err(e) if Instant::now() + RETRY >= until => {
                    let text = format!("did not answer within {} ({e})", seconds(deadline));
                    return Err(io::Error::new(e.kind(), text));
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    fn try_connect(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host, port).to_socket_addrs()? {
            let left = until.saturating_duration_since(Instant::now()).max(RETRY);
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Where the server is, as it was named.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address of this machine by which it reaches the server, and others reach it.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn own_address(&self) -> io::Result<IpAddr> {
        Ok(self.stream.get_ref().local_addr()?.ip())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Answers later than `deadline` are errors; after one the connection is of no more use.
    fn wait_at_most(&mut self, deadline: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(deadline.max(Duration::from_millis(1))))
    }

    /// Gives a key a value.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn set(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        let mut bytes = vec![request::SET];
        put_text(&mut bytes, key.as_bytes());
        put_text(&mut bytes, value);
        self.send(&bytes)
    }

    /// The value of a key, as soon as it has one.
    ///
    /// # Errors
    /// When it has none within `deadline`, or the connection is gone.
    pub fn get(&mut self, key: &str, deadline: Duration) -> io::Result<Vec<u8>> {
        self.wait(&[key], deadline)?;
        let mut bytes = vec![request::GET];
        put_text(&mut bytes, key.as_bytes());
        self.send(&bytes)?;
        take_text(&mut self.stream)
    }

    /// Adds to a counter; its new value.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn add(&mut self, key: &str, amount: i64, deadline: Duration) -> io::Result<i64> {
        let mut bytes = vec![request::ADD];
        put_text(&mut bytes, key.as_bytes());
        bytes.extend(amount.to_le_bytes());
        self.wait_at_most(deadline)?;
        self.send(&bytes)?;
        Ok(i64::from_le_bytes(take(&mut self.stream)?))
    }

    /// Returns when all keys have values.
    ///
    /// # Errors
    /// When they have none within `deadline`, or the connection is gone.
    pub fn wait(&mut self, keys: &[&str], deadline: Duration) -> io::Result<()> {
        let mut bytes = vec![request::WAIT];
        bytes.extend((keys.len() as u64).to_le_bytes());
        keys.iter().for_each(|key| put_text(&mut bytes, key.as_bytes()));
        self.wait_at_most(deadline)?;
        self.send(&bytes)?;
        match take::<1>(&mut self.stream) {
            Ok([0]) => Ok(()),
            Ok(_) => Err(invalid("the server gave up waiting")),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let text = format!(
                    "had no value for `{}` within {}",
                    keys.join("`, `"),
                    seconds(deadline)
                );
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
            Err(e) => Err(e),
        }
    }
}

#[derive(Default)]
struct Shared {
    values: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    changed: Condvar,
}

impl Shared {
    fn values(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Vec<u8>>> {
        // A thread that panicked left whole values behind.
        self.values.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set(&self, key: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        let mut values = self.values();
        let kept: usize = values.iter().map(|(k, v)| k.len() + v.len()).sum();
        if kept + key.len() + value.len() > STORE_BYTES_MAX {
            return Err(invalid("the store is full"));
        }
        values.insert(key, value);
        self.changed.notify_all();
        Ok(())
    }
}

/// A store, served until the process ends.
pub struct Server {
    address: SocketAddr,
}

impl Server {
    /// Serves at `port` of every address of this machine; 0 takes a free one.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(port: u16) -> io::Result<Self> {
        let any = [SocketAddr::from(([0u16; 8], port)), SocketAddr::from(([0u8; 4], port))];
        let listener = TcpListener::bind(any[0]).or_else(|_| TcpListener::bind(any[1]))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        std::thread::Builder::new().name("store".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // Without a thread the connection is closed, which its client sees.
                let _ = std::thread::Builder::new()
                    .name("store connection".into())
                    .stack_size(256 << 10)
                    .spawn(move || serve(stream, &shared));
            }
        })?;
        Ok(Self { address })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Answers one connection until it ends or says what is no request.
fn serve(stream: TcpStream, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut input = BufReader::new(stream);
    let valid = matches!(take::<1>(&mut input), Ok([request::VALIDATE]))
        && take(&mut input).is_ok_and(|magic| u32::from_le_bytes(magic) == MAGIC);
    if valid {
        while answer(&mut input, shared).is_ok() {}
    }
}

fn answer(input: &mut BufReader<TcpStream>, shared: &Shared) -> io::Result<()> {
    let [kind] = take(input)?;
    let reply = match kind {
        request::SET => {
            let (key, value) = (take_text(input)?, take_text(input)?);
            shared.set(key, value)?;
            Vec::new()
        }
        request::GET => {
            let key = take_text(input)?;
            let mut reply = Vec::new();
            let value = shared.values().get(&key).cloned();
            put_text(&mut reply, &value.ok_or_else(|| invalid("no such key"))?);
            reply
        }
        request::ADD => {
            let key = take_text(input)?;
            let amount = i64::from_le_bytes(take(input)?);
            let mut values = shared.values();
            let old = values.get(&key).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
            let new = old.unwrap_or(0i64).wrapping_add(amount);
            values.insert(key, new.to_string().into_bytes());
            shared.changed.notify_all();
            new.to_le_bytes().to_vec()
        }
        request::CHECK => {
            let keys = take_keys(input)?;
            let values = shared.values();
            vec![u8::from(!keys.iter().all(|key| values.contains_key(key)))]
        }
        request::WAIT => {
            let keys = take_keys(input)?;
            wait_for(&keys, input, shared)?
        }
        request::DELETE => {
            let key = take_text(input)?;
            let removed = shared.values().remove(&key).is_some();
            i64::from(removed).to_le_bytes().to_vec()
        }
        // Nobody waits any more: the keys came while the cancellation was on its way.
        request::CANCEL_WAIT => vec![1],
        request::PING => take::<4>(input)?.to_vec(),
        _ => return Err(invalid("no such request")),
    };
    input.get_mut().write_all(&reply)
}

fn take_keys(input: &mut impl Read) -> io::Result<Vec<Vec<u8>>> {
    let n = u64::from_le_bytes(take(input)?);
    if n > KEYS_MAX {
        return Err(invalid("too many keys"));
    }
    (0..n).map(|_| take_text(input)).collect()
}

/// Waits until all keys have values, the client cancels, or it goes away.
fn wait_for(
    keys: &[Vec<u8>],
    input: &mut BufReader<TcpStream>,
    shared: &Shared,
) -> io::Result<Vec<u8>> {
    let mut values = shared.values();
    loop {
        if keys.iter().all(|key| values.contains_key(key)) {
            return Ok(vec![0]);
        }
        let waited = shared.changed.wait_timeout(values, Duration::from_millis(200));
        let (guard, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        if !timeout.timed_out() {
            values = guard;
            continue;
        }
        drop(guard);
        let stream = input.get_ref();
        stream.set_nonblocking(true)?;
        let mut first = [0];
        let peeked = stream.peek(&mut first);
        stream.set_nonblocking(false)?;
        match peeked {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if first == [request::CANCEL_WAIT] => {
                take::<1>(input)?;
                return Ok(vec![1]);
            }
            Ok(_) => return Err(invalid("a request while waiting")),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        values = shared.values();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn pair() -> (Server, Client) {
        let server = Server::start(0).unwrap();
        let client = Client::connect("127.0.0.1", server.port(), SOON).unwrap();
        (server, client)
    }

    #[test]
    fn values_counters_and_waiting() {
        let (server, mut a) = pair();
        let mut b = Client::connect("localhost", server.port(), SOON).unwrap();
        let waiting = std::thread::spawn(move || b.get("/k", SOON).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        a.set("/k", b"value").unwrap();
        assert_eq!(waiting.join().unwrap(), b"value");
        assert_eq!(a.add("/n", 5, SOON).unwrap(), 5);
        assert_eq!(a.add("/n", -2, SOON).unwrap(), 3);
        assert_eq!(a.get("/n", SOON).unwrap(), b"3");
        assert!(a.own_address().unwrap().is_loopback());
    }

    #[test]
    fn a_key_that_never_comes_is_an_error_in_time() {
        let (_server, mut client) = pair();
        let begun = Instant::now();
        let error = client.get("/never", Duration::from_millis(400)).unwrap_err();
        assert!(error.to_string().contains("`/never`"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        let nobody = Client::connect("127.0.0.1", 1, Duration::from_millis(300)).unwrap_err();
        assert!(nobody.to_string().contains("did not answer"), "{nobody}");
    }

    #[test]
    fn what_speaks_another_language_is_cut_off_and_the_store_lives_on() {
        let (server, mut client) = pair();
        let too_long = [&[0, 0xCE, 0xF7, 0x85, 0x3C, 1][..], &[0xFF; 8]].concat();
        for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 1, 2, 3, 4, 5], &too_long] {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.write_all(noise).unwrap();
            let mut rest = Vec::new();
            // Closed or reset, but not left open.
            let ended = stream.read_to_end(&mut rest);
            assert!(ended.is_ok() || ended.unwrap_err().kind() == io::ErrorKind::ConnectionReset);
            assert!(rest.is_empty());
        }
        client.set("/k", b"v").unwrap();
        assert_eq!(client.get("/k", SOON).unwrap(), b"v");
    }
}
