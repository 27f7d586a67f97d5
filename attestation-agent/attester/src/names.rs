//! Host names by `/etc/hosts` and the name servers of `/etc/resolv.conf`, without the C library.
//!
//! The programs that use this are linked statically, one of them for the initramfs. There `getaddrinfo` of glibc would load the machine's name
//! service modules, and a second C library with them. What is given up: any other source that `nsswitch.conf` may
//! name. Answers are not trusted: TLS says who is the key broker.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cc_kbs::{BoxFuture, Names};
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

/// The two files of resolver(5), read anew for each name: an initramfs gets them while it waits for the network.
#[derive(Debug)]
pub struct DnsFiles {
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

impl DnsFiles {
    /// Those of this machine.
    #[must_use]
    pub fn of_system() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into() }
    }

    async fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let servers =
            fs::read(&self.resolv_conf).and_then(|text| parse_resolv_conf(text).map_err(io::Error::other));
        // Without a name server the file of hosts still counts.
        let (config, options, no_server) = match servers {
            Ok((config, options)) => (config, options, None),
            Err(why) => (ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default(), Some(why)),
        };
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let mut resolver = builder.with_options(options).build().map_err(io::Error::other)?;
        let mut hosts = Hosts::default();
        if let Ok(file) = fs::File::open(&self.hosts) {
            hosts.read_hosts_conf(file)?;
        }
        resolver.set_hosts(Arc::new(hosts));
        match resolver.lookup_ip(name).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(e) => Err(no_server.unwrap_or_else(|| io::Error::other(e))),
        }
    }
}

impl Names for DnsFiles {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            self.look_up(name).await.map_err(|why| {
                let (hosts, servers) = (self.hosts.display(), self.resolv_conf.display());
                io::Error::other(format!("looking up {name} in {hosts} and by {servers}: {why}"))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    fn files(folder: &tempfile::TempDir, hosts: Option<&str>, resolv_conf: Option<&str>) -> DnsFiles {
        let path = |name: &str, text: Option<&str>| {
            let path = folder.path().join(name);
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            path
        };
        DnsFiles { hosts: path("hosts", hosts), resolv_conf: path("resolv.conf", resolv_conf) }
    }

    #[tokio::test]
    async fn the_file_of_hosts_needs_no_name_server() {
        let folder = tempfile::tempdir().unwrap();
        let names = files(&folder, Some("127.0.0.1 localhost\n10.1.2.3 kbs.example kbs\n"), None);
        for name in ["kbs.example", "kbs"] {
            assert_eq!(
                names.addresses(name).await.unwrap(),
                ["10.1.2.3".parse::<IpAddr>().unwrap()],
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn without_a_usable_name_server_hosts_count_and_errors_name_the_files() {
        for resolv_conf in [None, Some(""), Some("nameserver not-an-address\n"), Some("\u{0}\u{1}")] {
            let folder = tempfile::tempdir().unwrap();
            let names = files(&folder, Some("10.1.2.3 kbs\n"), resolv_conf);
            assert_eq!(names.addresses("kbs").await.unwrap().len(), 1, "{resolv_conf:?}");
            let error = names.addresses("kbs.invalid").await.unwrap_err().to_string();
            assert!(
                error.contains("kbs.invalid") && error.contains("resolv.conf"),
                "{resolv_conf:?}: {error}"
            );
        }
    }

    /// A name server that says of every name that it is 10.9.8.7, as long as IPv4 is asked for.
    fn answer(query: &[u8]) -> Vec<u8> {
        let mut answer = query.to_vec();
        let kind = answer[12..].iter().position(|b| *b == 0).map(|end| answer[12 + end + 2]).unwrap();
        answer.truncate(12 + answer[12..].iter().position(|b| *b == 0).unwrap() + 5);
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[6..12].copy_from_slice(&[0, u8::from(kind == 1), 0, 0, 0, 0]);
        if kind == 1 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 8, 7]);
        }
        answer
    }

    #[tokio::test]
    async fn the_name_server_of_the_file_is_asked() {
        // resolv.conf has no ports, so the server needs the one that is for superusers.
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::new(127, 9, 8, 7), 53)) else {
            return cc_vectors::skip("port 53 may not be bound here");
        };
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                socket.send_to(&answer(&query[..length]), from).unwrap();
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let names = files(&folder, None, Some("nameserver 127.9.8.7\nsearch example\n"));
        assert_eq!(names.addresses("kbs.example").await.unwrap(), [IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7))]);
    }
}
