//! Asks a running server whether it answers: what `--health` does, for the health checks of container engines.
//!
//! Any answer in HTTP counts, also a refusal: the question names no resource. It is NOT a check of the data hub behind the
//! server; `guestctl doctor` does that.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting may take, and each step of the answer.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// How every answer of the server begins.
const VERSION: &[u8] = b"HTTP/1.1 ";

/// Whether a server answers at `bind`; one that listens on all addresses is asked over loopback.
///
/// # Errors
/// Nobody answers within 5 seconds, or the answer is not HTTP.
pub fn check(bind: SocketAddr) -> io::Result<()> {
    let mut address = bind;
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let told = |kind, why: &dyn std::fmt::Display| {
        io::Error::new(kind, format!("asking the server at {address} whether it answers: {why}"))
    };
    let begin = ask(address).map_err(|error| told(error.kind(), &error))?;
    if begin == VERSION {
        Ok(())
    } else {
        Err(told(io::ErrorKind::InvalidData, &"what answers does not speak HTTP/1.1"))
    }
}

fn ask(address: SocketAddr) -> io::Result<[u8; VERSION.len()]> {
    let mut stream = TcpStream::connect_timeout(&address, TIME_LIMIT)?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut begin = [0; VERSION.len()];
    stream.read_exact(&mut begin)?;
    Ok(begin)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answering(text: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(text).unwrap();
        });
        address
    }

    #[test]
    fn a_refusal_is_an_answer_and_other_protocols_are_not() {
        check(answering(b"HTTP/1.1 404 Not Found\r\n\r\n")).unwrap();
        let mut everywhere = answering(b"HTTP/1.1 403 Forbidden\r\n\r\n");
        everywhere.set_ip(Ipv4Addr::UNSPECIFIED.into());
        check(everywhere).unwrap();
        let error = check(answering(b"SSH-2.0-OpenSSH_9\r\n")).unwrap_err();
        assert!(error.to_string().contains("does not speak HTTP"), "{error}");
        let error = check(answering(b"HTTP")).unwrap_err().to_string();
        assert!(error.contains("asking the server at 127.0.0.1:"), "{error}");
    }
}
