//! A client, and the places where one image may be.

use std::sync::Arc;

use cc_evidence::blame::Blame;
use image_rs::{Error, Reference};

use crate::{
    AuthFile, Options, Registries, RegistryError, Repository, Stop,
    authorization::Authorization,
    dial::Dialer,
    http_client::HttpClient,
    options::{Login, Ranges},
    pieces::Buffers,
    registries::Attempt,
    repository::Inner,
};

/// Reads images from registries. One for a process: connections and what is known about registries are shared. Its calls,
/// and those of what comes from it, block; they must not be made from asynchronous code.
#[derive(Clone, Debug)]
pub struct Client {
    http: Arc<HttpClient>,
    registries: Registries,
    auth_file: AuthFile,
    ranges: Ranges,
    buffers: Arc<Buffers>,
}

impl Client {
    /// A client. Nothing is connected yet.
    ///
    /// # Errors
    /// [`RegistryError::Config`] for a proxy or a certificate that cannot be used.
    pub fn new(options: &Options) -> Result<Self, RegistryError> {
        Ok(Self {
            http: Arc::new(HttpClient::new(Dialer::new(options)?, options.patience)),
            registries: options.registries.clone(),
            auth_file: options.auth_file.clone(),
            ranges: options.ranges,
            buffers: Arc::default(),
        })
    }

    /// The names that `reference` can stand for: one without a registry is looked for in the whole search list.
    ///
    /// # Errors
    /// [`RegistryError::Config`].
    pub fn names(&self, reference: &Reference) -> Result<Vec<Reference>, RegistryError> {
        self.registries.candidates(reference)
    }

    /// The places where `reference` may be, in the order in which they are to be tried.
    ///
    /// `login` is used in place of the credentials file, and only at the registry that `reference` names, never at its
    /// mirrors. `stop` ends all that comes of it.
    ///
    /// # Errors
    /// [`RegistryError::Blocked`], [`RegistryError::Config`].
    pub fn attempts(
        &self,
        reference: &Reference,
        login: Option<&Login>,
        stop: &Stop,
    ) -> Result<Attempts, RegistryError> {
        let attempts = self.registries.attempts(reference)?;
        let open = |attempt: Attempt| {
            let named = attempt.reference.registry() == reference.registry();
            let login = login.filter(|_| named).or_else(|| self.auth_file.login(&attempt.reference));
            Ok(Repository(Arc::new(Inner {
                http: Arc::clone(&self.http),
                base: Repository::base(&attempt.reference, attempt.plain_http)?,
                reference: attempt.reference,
                plain_http: attempt.plain_http,
                login: login.map(Login::copy),
                authorization: Authorization::default(),
                // Of its own: what gives one place up goes on with the next.
                stop: stop.part(),
                ranges: self.ranges,
                buffers: Arc::clone(&self.buffers),
            })))
        };
        attempts.into_iter().map(open).collect::<Result<_, _>>().map(Attempts)
    }
}

/// Where one image may be, in order; at least one place.
#[derive(Clone, Debug)]
pub struct Attempts(Vec<Repository>);

impl Attempts {
    /// The places.
    pub fn iter(&self) -> std::slice::Iter<'_, Repository> {
        self.0.iter()
    }

    /// Lets `pull` try one place after the other until it succeeds.
    ///
    /// # Errors
    /// What went wrong, of all places if there are several. What would go wrong everywhere (this machine, the caller,
    /// an interruption) is told at once.
    pub fn first<T>(&self, mut pull: impl FnMut(&Repository) -> Result<T, Error>) -> Result<T, Error> {
        let mut failures = Vec::new();
        for repository in &self.0 {
            match pull(repository) {
                Ok(done) => return Ok(done),
                Err(error) if is_everywhere(&error) => return Err(error),
                Err(error) => failures.push((repository.reference().to_string(), error)),
            }
        }
        match failures.pop() {
            Some((_, only)) if failures.is_empty() => Err(only),
            Some(last) => {
                failures.push(last);
                Err(RegistryError::Everywhere { attempts: failures }.into())
            }
            None => Err(Error::Interrupted),
        }
    }
}

/// Which of several places counts, by who is to blame at each: one that denied, for that is an answer and stays it when
/// another place is not reached; else one that gave something else than it should have; else the last, the registry that was
/// meant. Of equal ones the last. `None` if there are none.
#[must_use]
pub fn leading(blames: &[Blame]) -> Option<usize> {
    let last_of = |blame: Blame| blames.iter().rposition(|other| *other == blame);
    let found = last_of(Blame::Denied).or_else(|| last_of(Blame::Misbehaved));
    found.or_else(|| blames.len().checked_sub(1))
}

impl<'a> IntoIterator for &'a Attempts {
    type Item = &'a Repository;
    type IntoIter = std::slice::Iter<'a, Repository>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Whether another place cannot help.
fn is_everywhere(error: &Error) -> bool {
    matches!(error, Error::Interrupted | Error::TargetBusy { .. })
        || matches!(error.blame(), Blame::Misused | Blame::Platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_leads_whatever_follows() {
        use Blame::{Absent, Denied, Misbehaved, Unavailable};
        for (blames, place) in [
            (&[][..], None),
            (&[Absent, Unavailable], Some(1)),
            (&[Denied, Unavailable], Some(0)),
            (&[Unavailable, Denied, Absent], Some(1)),
            (&[Denied, Misbehaved, Denied, Unavailable], Some(2)),
            (&[Misbehaved, Absent], Some(0)),
        ] {
            assert_eq!(leading(blames), place, "{blames:?}");
        }
    }
}
