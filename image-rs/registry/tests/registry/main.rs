//! The registry client against a real registry, and against servers that are none.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails loudly, starts programs and says what it skips"
)]

mod blobs;
mod credentials;
mod hostile;
mod proxies;
mod real;
mod signatures;
mod stand_in;

use std::{io::Read, time::Duration};

use image_registry::{Attempts, Client, Login, Options, Patience, Registries, Stop};
use image_rs::{Error, Image, Platform};
use stand_in::{Authority, StandIn};

/// Options for a registry that answers soon or never, `plain` in plain http.
fn options(plain: Option<&StandIn>) -> Options {
    let registries = Registries::default();
    Options {
        registries: match plain {
            Some(server) => registries.with_plain_http(&server.host()),
            None => registries,
        },
        patience: Patience {
            connect: Duration::from_secs(20),
            idle: Duration::from_secs(20),
            document: Duration::from_secs(40),
            tries: 3,
            pause: Duration::from_millis(5),
        },
        ..Options::default()
    }
}

fn trusting(authority: &Authority) -> Options {
    Options { extra_roots: vec![authority.pem.clone()], ..options(None) }
}

fn attempts(options: &Options, name: &str, login: Option<&Login>) -> Attempts {
    Client::new(options).unwrap().attempts(&name.parse().unwrap(), login, &Stop::default()).unwrap()
}

/// Reads the image and all its layers, without unpacking them.
fn pull(options: &Options, name: &str) -> Result<Vec<Vec<u8>>, Error> {
    pull_as(options, name, None)
}

fn pull_as(options: &Options, name: &str, login: Option<&Login>) -> Result<Vec<Vec<u8>>, Error> {
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    attempts(options, name, login).first(|repository| {
        let image = Image::resolve(repository, &repository.reference().pointer(), &platform)?;
        image.layers().iter().map(|layer| read(repository, layer)).collect()
    })
}

fn read(source: &dyn image_rs::Source, layer: &image_rs::Layer) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    match source.blob(&layer.descriptor)?.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.downcast::<Error>().unwrap()),
    }
}

#[track_caller]
fn assert_code<T: std::fmt::Debug>(result: Result<T, Error>, code: &str) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    error
}

/// Bytes that are nowhere the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}
