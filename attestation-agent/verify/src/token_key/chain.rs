//! From a token signer's certificate to a trusted root, through intermediates in any order (RFC 5280, section 6).
//!
//! The search goes by breadth, so that each certificate is reached with the fewest authorities below it: if a length
//! limit (`pathLenConstraint`) forbids that way, it forbids all others, and no certificate needs a second visit. That
//! bounds the work whatever the certificates say of each other.

use super::refused;
use crate::Rejection;
use crate::certificate::Cert;
use crate::rejection::Utc;

/// A certificate that was reached, and from where.
struct Step<'c> {
    cert: &'c Cert,
    /// Place of the certificate that this one issued.
    issued: Option<usize>,
    /// How many authorities stand at and below this certificate: an issuer must allow so many.
    authorities: u8,
}

/// The common names from `leaf` to a root, or why there is no way. Every certificate on it is valid at `now`, every
/// issuer is an authority that allows the length, and every signature verifies.
pub(super) fn find(leaf: &Cert, others: &[Cert], roots: &[Cert], now: u64) -> Result<Vec<String>, Rejection> {
    check_dates(leaf, now)?;
    if roots.iter().any(|root| root.der() == leaf.der()) {
        return Ok(vec![leaf.common_name().to_owned()]);
    }
    let mut steps = vec![Step { cert: leaf, issued: None, authorities: 0 }];
    // What kept an issuer of the right name from being one.
    let mut obstacle = None;
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        let (cert, authorities) = (step.cert, step.authorities);
        for root in roots.iter().filter(|root| root.subject() == cert.issuer()) {
            match check_issuer(root, cert, authorities, now) {
                Ok(()) => return Ok(names(&steps, at, root)),
                Err(why) => _ = obstacle.get_or_insert(why),
            }
        }
        for other in others.iter().filter(|other| other.subject() == cert.issuer()) {
            if steps.iter().any(|known| known.cert.der() == other.der()) {
                continue;
            }
            match check_issuer(other, cert, authorities, now) {
                Ok(()) => steps.push(Step {
                    cert: other,
                    issued: Some(at),
                    authorities: authorities.saturating_add(1),
                }),
                Err(why) => _ = obstacle.get_or_insert(why),
            }
        }
        at += 1;
    }
    let last = steps.last().map_or(leaf, |step| step.cert);
    Err(obstacle.unwrap_or_else(|| {
        let why = format!(
            "{:?} was issued by {:?}, which is neither among the given roots nor in x5c",
            last.common_name(),
            last.issuer_common_name()
        );
        refused("token.chain", why)
    }))
}

/// Checks that `issuer` issued `cert`, below which `authorities` stand, the certificate itself included.
fn check_issuer(issuer: &Cert, cert: &Cert, authorities: u8, now: u64) -> Result<(), Rejection> {
    let broken = |why| refused("token.chain", why);
    issuer.check_authority().map_err(broken)?;
    if issuer.path_length().map_err(broken)?.is_some_and(|limit| limit < authorities) {
        let why = format!("{:?} allows fewer than {authorities} authorities below it", issuer.common_name());
        return Err(broken(why));
    }
    check_dates(issuer, now)?;
    cert.check_issued_by(issuer).map_err(broken)
}

fn check_dates(cert: &Cert, now: u64) -> Result<(), Rejection> {
    let (not_before, not_after) = cert.validity();
    if (not_before..=not_after).contains(&now) {
        return Ok(());
    }
    let (name, from, to) = (cert.common_name(), Utc(not_before), Utc(not_after));
    let why = format!(
        "the certificate {name:?} is valid from {from} to {to}, the time of verification is {}",
        Utc(now)
    );
    Err(refused("token.validity", why))
}

/// The common names on the way to the step at `end`, and that of the root above it.
fn names(steps: &[Step<'_>], end: usize, root: &Cert) -> Vec<String> {
    let mut names = vec![root.common_name().to_owned()];
    let mut next = steps.get(end);
    while let Some(step) = next {
        names.push(step.cert.common_name().to_owned());
        next = step.issued.and_then(|below| steps.get(below));
    }
    names.reverse();
    names
}
