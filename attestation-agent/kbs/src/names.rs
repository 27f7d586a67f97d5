//! How the name of a KBS becomes an address: by the C library, or by what the caller brings along.
//!
//! Literal addresses never come here. An answer is only where to connect to; who is there, TLS says.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

use crate::source::BoxFuture;

/// A source of addresses for a program that cannot use the C library's: a static one, where `getaddrinfo` would
/// load the machine's modules and a second C library with them.
pub trait Names: Send + Sync + fmt::Debug {
    /// The addresses of the host `name`, in the order in which they are to be tried.
    ///
    /// # Errors
    /// The name is unknown, or nobody who knows it can be asked; the text is shown to the operator.
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// What the HTTP connector asks.
#[derive(Debug, Clone)]
pub(crate) enum Lookup {
    /// `getaddrinfo(3)`.
    System(GaiResolver),
    /// What the caller brought along.
    Own(Arc<dyn Names>),
}

impl Lookup {
    /// The C library's.
    pub(crate) fn system() -> Self {
        Self::System(GaiResolver::new())
    }
}

impl Service<Name> for Lookup {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::System(system) => system.poll_ready(context),
            Self::Own(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, name: Name) -> Self::Future {
        match self {
            Self::System(system) => {
                let asked = system.call(name);
                Box::pin(async { Ok(asked.await?.collect::<Vec<_>>().into_iter()) })
            }
            Self::Own(names) => {
                let names = Arc::clone(names);
                Box::pin(async move {
                    let found = names.addresses(name.as_str()).await?;
                    // The connector puts the port of the URL in.
                    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
                })
            }
        }
    }
}
