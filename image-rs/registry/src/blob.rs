//! A blob as a stream that survives broken connections.
//!
//! A connection that breaks is replaced by one that goes on where it broke (`Range`, RFC 9110 section 14.2); from a registry
//! that knows no ranges the beginning is read again and skipped. What is delivered is hashed by the reader as it comes, so
//! nothing depends on both halves being of the same blob. A try counts against the limit unless it brought half of
//! what was left, or a megabyte: a registry that cuts every transfer is survived, one that gives a byte at a time is not.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, StatusCode, header};
use image_rs::{Descriptor, Digest, Error};
use tokio::time::Instant;
use url::Url;

use crate::{
    ContentRange, RegistryError, Stop,
    connection::{Answer, Fault, Pace},
    http_client::{Answered, refusal},
    pieces::Adaptive,
    repository::{Inner, check_encoding, told},
};

/// Progress after which tries are counted anew, in bytes, unless half of the rest was less.
const PROGRESS: u64 = 1 << 20;

/// Opens the blob at its byte `at`. Where it is large, and one connection slow, several read it.
pub(crate) fn open(
    repository: &Arc<Inner>,
    descriptor: &Descriptor,
    at: u64,
) -> Result<Box<dyn Read + Send>, Error> {
    let target = Target::of(repository, descriptor)?;
    let mut stream = Stream::new(target.clone(), at, None);
    // So that what is not there is told here.
    stream.connect_patiently().map_err(told)?;
    let ranges = repository.ranges;
    if target.size >= ranges.from && ranges.piece > 0 {
        return Ok(Box::new(Adaptive::new(target, stream)));
    }
    Ok(Box::new(stream))
}

/// Opens a blob that is a document, all of which has to come within the limit for documents.
pub(crate) fn open_document(
    repository: &Arc<Inner>,
    descriptor: &Descriptor,
) -> Result<Box<dyn Read + Send>, Error> {
    let mut target = Target::of(repository, descriptor)?;
    target.until = Some(Instant::now() + repository.http.patience().document);
    let mut stream = Stream::new(target, 0, None);
    stream.connect_patiently().map_err(told)?;
    Ok(Box::new(stream))
}

/// Which blob.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) repository: Arc<Inner>,
    pub(crate) url: Url,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) stop: Stop,
    /// When all of it has to be there, if that is known.
    pub(crate) until: Option<Instant>,
}

impl Target {
    fn of(repository: &Arc<Inner>, descriptor: &Descriptor) -> Result<Self, RegistryError> {
        Ok(Self {
            repository: Arc::clone(repository),
            url: repository.url("blobs", &descriptor.digest.to_string())?,
            digest: descriptor.digest,
            size: descriptor.size,
            stop: repository.stop.clone(),
            until: None,
        })
    }
}

/// Bytes of a blob from one place to another.
#[derive(Debug)]
pub(crate) struct Stream {
    target: Target,
    /// Place of the next byte to deliver.
    at: u64,
    /// Where to end; `None`: at the end of the blob.
    end: Option<u64>,
    answer: Option<Answer>,
    pace: Pace,
    /// Bytes that come before the next one to deliver.
    skip: u64,
    data: Bytes,
    tries: u32,
    /// Place at which tries were last counted anew.
    mark: u64,
    knows_ranges: bool,
    /// Whether the answer says by itself where it ends.
    is_part: bool,
    waited: Duration,
}

impl Stream {
    pub(crate) fn new(target: Target, at: u64, end: Option<u64>) -> Self {
        Self {
            target,
            at,
            end,
            answer: None,
            pace: Pace::default(),
            skip: 0,
            data: Bytes::new(),
            tries: 0,
            mark: at,
            knows_ranges: false,
            is_part: false,
            waited: Duration::ZERO,
        }
    }

    fn last(&self) -> u64 {
        self.end.unwrap_or(self.target.size)
    }

    /// Bytes still to deliver.
    pub(crate) fn left(&self) -> u64 {
        self.last().saturating_sub(self.at)
    }

    fn what(&self) -> String {
        format!("blob {}", self.target.digest)
    }

    /// Place of the next byte to deliver.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// Whether the registry says that it gives parts of this blob.
    pub(crate) const fn knows_ranges(&self) -> bool {
        self.knows_ranges
    }

    /// How long bytes were waited for since this was asked last.
    pub(crate) const fn take_waited(&mut self) -> Duration {
        std::mem::replace(&mut self.waited, Duration::ZERO)
    }

    /// Opens or reopens the blob at the place that was reached, as often as is due.
    pub(crate) fn connect_patiently(&mut self) -> Result<(), Fault> {
        loop {
            let error = match self.connect() {
                Ok(()) => return Ok(()),
                Err(Fault::Registry(error)) if error.is_passing() => error,
                Err(fault) => return Err(fault),
            };
            self.again(error)?;
        }
    }

    fn connect(&mut self) -> Result<(), Fault> {
        let repository = &self.target.repository;
        let what = self.what();
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        if self.at > 0 || self.end.is_some() {
            let last = self.end.map(|end| (end - 1).to_string()).unwrap_or_default();
            let range = format!("bytes={}-{last}", self.at);
            headers.extend(HeaderValue::try_from(range).ok().map(|range| (header::RANGE, range)));
        }
        let Target { url, until, stop, .. } = &self.target;
        let answered = repository.get(url, &headers, *until, &what, stop)?;
        let Answered { mut answer, .. } = answered;
        let host = answer.origin().authority();
        let bad = |why: &str| Fault::from(RegistryError::bad(&host, &what, why));
        match answer.head.status() {
            // Not to read all that comes before the part.
            StatusCode::OK if self.end.is_some() => {
                return Err(bad("it is the whole and not the part that was asked for"));
            }
            StatusCode::OK => {
                if let Some(length) = answer.length().filter(|length| *length != self.target.size) {
                    let actual = length.to_string();
                    return Err(Error::Length { what, expected: self.target.size, actual }.into());
                }
                self.skip = self.at;
            }
            StatusCode::PARTIAL_CONTENT if !headers.is_empty() => {
                let range = answer.header(header::CONTENT_RANGE).and_then(ContentRange::parse);
                let range = range.ok_or_else(|| bad("it does not say which part it is"))?;
                if range.whole.is_some_and(|whole| whole != self.target.size) {
                    let actual = range.whole.unwrap_or_default().to_string();
                    return Err(Error::Length { what, expected: self.target.size, actual }.into());
                }
                if range.first != self.at || range.last.checked_add(1) != Some(self.last()) {
                    return Err(bad("it is another part than was asked for"));
                }
                self.skip = 0;
            }
            StatusCode::NOT_FOUND => {
                let reference = &repository.reference;
                let what = format!("{what} in {}/{}", reference.registry(), reference.repository());
                return Err(Error::NotFound { what }.into());
            }
            _ => return Err(refusal(&mut answer, &what, &self.target.stop)),
        }
        check_encoding(&answer, &what)?;
        self.pace = Pace::default();
        self.is_part = answer.head.status() == StatusCode::PARTIAL_CONTENT;
        self.knows_ranges = answer.header(header::ACCEPT_RANGES).is_some_and(|unit| unit == "bytes");
        self.answer = Some(answer);
        Ok(())
    }

    /// Counts a failure; waits for the next try, or gives it up.
    fn again(&mut self, error: RegistryError) -> Result<(), Fault> {
        let (progress, left) = (self.at - self.mark, self.last().saturating_sub(self.mark));
        if progress >= PROGRESS.min(left.div_ceil(2)).max(1) {
            self.tries = 0;
            self.mark = self.at;
        }
        self.tries += 1;
        let repository = &self.target.repository;
        if self.tries >= repository.http.patience().tries
            || !repository.http.pause(self.tries, &error, &self.target.stop, self.target.until)?
        {
            return Err(error.into());
        }
        tracing::debug!(blob = %self.target.digest, at = self.at, %error, "reading on");
        Ok(())
    }

    /// Makes sure that there are bytes to deliver, unless this is the end.
    fn fill(&mut self) -> Result<(), Fault> {
        while self.data.is_empty() {
            if self.end.is_some_and(|end| self.at >= end) {
                return Ok(());
            }
            let Some(answer) = &mut self.answer else {
                if self.at >= self.target.size {
                    return Ok(());
                }
                self.connect_patiently()?;
                continue;
            };
            let start = Instant::now();
            let next = answer.next(&mut self.pace, &self.target.stop);
            self.waited += start.elapsed();
            match next {
                Ok(Some(mut data)) => {
                    let skipped = self.skip.min(data.len() as u64);
                    self.skip -= skipped;
                    data.advance(usize::try_from(skipped).unwrap_or(data.len()));
                    self.data = data;
                }
                Ok(None) => {
                    let answer = self.answer.take();
                    let delimited = answer.as_ref().is_none_or(Answer::is_delimited);
                    if let Some(answer) = answer {
                        self.target.repository.http.keep(answer);
                    }
                    let host = self.target.repository.reference.registry().to_owned();
                    if self.is_part && delimited && self.at < self.last() {
                        let why = "it ends before the part that it says it is";
                        self.again(RegistryError::bad(&host, &self.what(), why))?;
                        continue;
                    }
                    if delimited || self.at >= self.target.size {
                        // The registry says that this is all: whoever compares lengths will tell.
                        self.target.size = self.at;
                        return Ok(());
                    }
                    self.again(RegistryError::unreachable(
                        &host,
                        "the connection broke in the middle of a blob",
                    ))?;
                }
                Err(Fault::Registry(error)) if error.is_passing() => {
                    self.answer = None;
                    self.again(error)?;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.fill().map_err(|fault| io::Error::other(told(fault)))?;
        let most = self.end.map_or(u64::MAX, |end| end - self.at);
        let length = into.len().min(self.data.len()).min(usize::try_from(most).unwrap_or(usize::MAX));
        if let Some(into) = into.get_mut(..length) {
            self.data.copy_to_slice(into);
        }
        self.at += length as u64;
        if self.end.is_some_and(|end| self.at >= end) {
            self.finish();
        }
        Ok(length)
    }
}

impl Stream {
    /// Gives the connection back after the last byte of a part.
    fn finish(&mut self) {
        let Some(mut answer) = self.answer.take() else { return };
        // Its end is there already, or it is not worth waiting for.
        answer.limit(Duration::from_millis(100));
        if let Ok(Some(rest)) = answer.bytes(0, &self.target.stop)
            && rest.is_empty()
        {
            self.target.repository.http.keep(answer);
        }
    }
}
