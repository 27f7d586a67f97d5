//! Decryption of a layer, between the blob and its decompression.
//!
//! What comes out is only known to be right at the end of the stream: the code of the cipher text and the digest that the
//! layer had before it was encrypted are compared there, and the next stage sees the end only then.

use std::io::BufRead;

use cc_crypto::layer::{LayerOpener, SLACK};
use cc_sealed::{LayerKey, SealedError};

use super::{
    BUFFER,
    stages::{Meters, Stopwatch},
    stream::{Closed, Receiver, Sender},
};
use crate::{Digest, KeyFault, LayerFault, Mismatch};

/// Bytes of a buffer behind this stage.
pub(super) const OUT: usize = BUFFER + SLACK;

/// Decrypts the bytes `from` with `key`, whose private options may name them by the digest `also` as well, which the next
/// stages compare. What it takes is measured by `meters`. Goes on to the end even if nobody wants the plain bytes any more: whether the
/// cipher text was the right one decides who is to blame.
pub(super) fn decrypt(
    key: &LayerKey,
    also: Option<Digest>,
    from: &mut Receiver,
    to: &mut Sender,
    meters: &Meters,
) -> Result<(), LayerFault> {
    let failed = |doing| {
        move |source| LayerFault::Key(Box::new(KeyFault::Unusable(SealedError::Crypto { doing, source })))
    };
    let before: Digest = key.digest.parse().map_err(|_| KeyFault::Digest)?;
    let mut opener =
        LayerOpener::new(&key.key, key.nonce, key.mac).map_err(failed("preparing the cipher"))?;
    let mut hasher = before.algorithm().hasher();
    let mut wanted = true;
    let mut buffer = vec![0; OUT];
    let watch = Stopwatch::start();
    loop {
        let bytes = from.fill_buf().map_err(LayerFault::Read)?;
        watch.skip();
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        opener.update(bytes, &mut buffer).map_err(failed("decrypting"))?;
        from.consume(length);
        watch.lap(&meters.decrypt);
        hasher.update(buffer.get(..length).unwrap_or_default());
        watch.lap(&meters.hash);
        if wanted {
            match to.send(buffer, length) {
                Ok(empty) => buffer = empty,
                Err(Closed) => {
                    wanted = false;
                    buffer = vec![0; OUT];
                }
            }
        }
    }
    opener.finish().map_err(|_| LayerFault::Mac)?;
    let actual = hasher.finish();
    if actual != before && also != Some(before) {
        let digests = Box::new(Mismatch { expected: before, actual });
        return Err(LayerFault::PlainDigest { digests });
    }
    to.finish();
    Ok(())
}
