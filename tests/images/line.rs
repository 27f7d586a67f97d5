//! A line to the registry that counts what comes over it, and can break or stand still.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// Bytes of an answer with a manifest or a configuration in these tests, at most.
const LONGEST_DOCUMENT: usize = 16 << 10;

/// What all connections share.
#[derive(Debug, Default)]
struct State {
    /// Bytes that came from the registry.
    came: u64,
    /// After so many bytes nothing comes any more.
    most: Option<u64>,
    /// Whether connections break then.
    breaks: bool,
    /// Whether what is long comes altered.
    alters: bool,
}

/// A proxy that knows nothing of HTTP. Its threads end with their connections.
#[derive(Debug)]
pub(crate) struct Line {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Line {
    /// A line to `registry`, an address.
    pub(crate) fn to(registry: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let (registry, shared) = (registry.to_owned(), Arc::clone(&state));
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let (registry, state) = (registry.clone(), Arc::clone(&shared));
                thread::spawn(move || connect(caller, &registry, &state));
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Lets so many bytes come from now on, all if there is no number. Then it stands still, or breaks.
    pub(crate) fn allow(&self, most: Option<u64>, breaks: bool) {
        *self.state.0.lock().unwrap() = State { most, breaks, ..State::default() };
        self.state.1.notify_all();
    }

    /// The same for a line that alters what is longer than documents, and then breaks.
    pub(crate) fn alter(&self, most: u64) {
        let state = State { most: Some(most), breaks: true, alters: true, ..State::default() };
        *self.state.0.lock().unwrap() = state;
        self.state.1.notify_all();
    }

    /// Bytes that came since the last [`Line::allow`].
    pub(crate) fn came(&self) -> u64 {
        self.state.0.lock().unwrap().came
    }
}

fn connect(caller: TcpStream, registry: &str, state: &(Mutex<State>, Condvar)) {
    let Ok(called) = TcpStream::connect(registry) else { return };
    let (mut from_caller, mut to_called) = (caller.try_clone().unwrap(), called.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_caller, &mut to_called);
        let _ = to_called.shutdown(std::net::Shutdown::Both);
    });
    let (mut called, mut caller) = (called, caller);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = called.read(&mut buffer) {
        let mut shared = state.0.lock().unwrap();
        while shared.most.is_some_and(|most| shared.came >= most) {
            if shared.breaks {
                let _ = caller.shutdown(std::net::Shutdown::Both);
                return;
            }
            shared = state.1.wait(shared).unwrap();
        }
        shared.came += read as u64;
        if shared.alters && read > LONGEST_DOCUMENT {
            buffer[LONGEST_DOCUMENT] ^= 1;
        }
        drop(shared);
        if caller.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = caller.shutdown(std::net::Shutdown::Both);
    let _ = called.shutdown(std::net::Shutdown::Both);
}
