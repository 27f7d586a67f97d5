//! The roots of trust: AMD's certificates, built in and pinned, the roots of Intel and NVIDIA, pinned, and test roots
//! by explicit request.
//!
//! An ARK counts as AMD's only when its SHA-256 equals the pin below (AMD publication 57230; fetched from
//! `kdsintf.amd.com`). Intel's root travels in every quote and in every collateral chain, NVIDIA's with
//! every report, so their digests suffice here. Verdicts under test roots are flagged. Trust is NEVER taken from evidence.

use std::fmt;

use cc_evidence::snp::Product;

use crate::certificate::{Cert, read_pem};

/// Longest text of test roots that is read, in bytes.
const MAX_PEM_LEN: usize = 256 * 1024;

/// SHA-256 of AMD's root certificates in DER.
const PINS: [(Product, &str); 3] = [
    (Product::Milan, "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
    (Product::Genoa, "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
    (Product::Turin, "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
];

/// SHA-256 of Intel's root certificate in DER
/// (`https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer`).
const INTEL_PIN: &str = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3";

/// Common name of Intel's root.
pub(crate) const INTEL_ROOT_NAME: &str = "Intel SGX Root CA";

/// SHA-256 of NVIDIA's root of device identities in DER: the last certificate of the chain that NVML gives for a GPU.
const NVIDIA_PIN: &str = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48";

/// Common name of that root.
const NVIDIA_ROOT_NAME: &str = "NVIDIA Device Identity CA";

macro_rules! vendor_set {
    ($product:ident, $name:literal) => {
        RootSet {
            product: Product::$product,
            ark: include_bytes!(concat!("../roots/ark-", $name, ".der")).to_vec(),
            ask: include_bytes!(concat!("../roots/ask-", $name, ".der")).to_vec(),
            asvk: Some(include_bytes!(concat!("../roots/asvk-", $name, ".der")).to_vec()),
            test: false,
        }
    };
}

/// The authorities under which evidence is accepted.
#[derive(Clone)]
pub struct TrustRoots {
    sets: Vec<RootSet>,
    /// Digests of test roots with Intel's name.
    intel_test: Vec<[u8; 32]>,
    /// Digests of test roots with NVIDIA's name.
    nvidia_test: Vec<[u8; 32]>,
}

impl TrustRoots {
    /// AMD's roots for Milan, Genoa and Turin, the roots of Intel and NVIDIA, and nothing else.
    #[must_use]
    pub fn vendor() -> Self {
        TrustRoots {
            sets: vec![vendor_set!(Milan, "milan"), vendor_set!(Genoa, "genoa"), vendor_set!(Turin, "turin")],
            intel_test: Vec::new(),
            nvidia_test: Vec::new(),
        }
    }

    /// Whether a root certificate with the common name `name` (`ARK-Milan`) and the SHA-256 `sha256` (lower-case
    /// hex over its DER) is AMD's.
    #[must_use]
    pub fn is_vendor_root(name: &str, sha256: &str) -> bool {
        PINS.iter().any(|(product, pin)| name == format!("ARK-{product}") && sha256 == *pin)
    }

    /// Adds test authorities, for an emulator: PEM with ASK, ARK and, for VLEKs, ASVK of one or more
    /// products, or a root for TDX or for GPUs. Common names decide which is which: `SEV-Milan`, `ARK-Milan`,
    /// `SEV-VLEK-Milan`, `Intel SGX Root CA`, `NVIDIA Device Identity CA`. RSA keys of 2048 bits suffice here; AMD's have 4096.
    ///
    /// # Errors
    /// [`InvalidRoots`] when the text is not such a set or its signatures do not verify.
    pub fn with_test_roots(mut self, pem: &str) -> Result<Self, InvalidRoots> {
        let certs = read_pem(pem, MAX_PEM_LEN).map_err(InvalidRoots::new)?;
        let mut used = 0;
        for root in certs.iter().filter(|cert| cert.common_name() == INTEL_ROOT_NAME) {
            check_self_signed(root).map_err(InvalidRoots::new)?;
            self.intel_test.push(root.sha256());
            used += 1;
        }
        for root in certs.iter().filter(|cert| cert.common_name() == NVIDIA_ROOT_NAME) {
            check_self_signed(root).map_err(InvalidRoots::new)?;
            self.nvidia_test.push(root.sha256());
            used += 1;
        }
        for product in Product::ALL {
            let named = |name: String| -> Result<Option<Vec<u8>>, InvalidRoots> {
                let mut found = certs.iter().filter(|cert| cert.common_name() == name);
                match (found.next(), found.next()) {
                    (one, None) => Ok(one.map(|cert| cert.der().to_vec())),
                    (_, Some(_)) => Err(InvalidRoots::new(format!("{name} is there twice"))),
                }
            };
            let ark = named(format!("ARK-{product}"))?;
            let ask = named(format!("SEV-{product}"))?;
            let asvk = named(format!("SEV-VLEK-{product}"))?;
            used += [&ark, &ask, &asvk].into_iter().flatten().count();
            match (ark, ask, asvk) {
                (Some(ark), Some(ask), asvk) => {
                    let set = RootSet { product, ark, ask, asvk, test: true };
                    set.authorities().map_err(InvalidRoots::new)?;
                    self.sets.push(set);
                }
                (None, None, None) => {}
                _ => {
                    return Err(InvalidRoots::new(format!(
                        "ARK-{product} and SEV-{product} must both be there"
                    )));
                }
            }
        }
        if used == 0 || used != certs.len() {
            return Err(InvalidRoots::new(format!(
                "{used} of {} certificates have a common name like ARK-Milan, SEV-Milan, SEV-VLEK-Milan, \
                 {INTEL_ROOT_NAME} or {NVIDIA_ROOT_NAME}",
                certs.len()
            )));
        }
        Ok(self)
    }

    /// Whether test roots were added.
    #[must_use]
    pub fn has_test_roots(&self) -> bool {
        !self.intel_test.is_empty() || !self.nvidia_test.is_empty() || self.sets.iter().any(|set| set.test)
    }

    /// Whether `root` is trusted to vouch for Intel's platforms, and then whether it is a test root.
    /// The error is a sentence.
    pub(crate) fn check_intel(&self, root: &Cert) -> Result<Vouching, String> {
        check_pinned(root, INTEL_PIN, &self.intel_test, "Intel's")
    }

    /// The same for NVIDIA's devices.
    pub(crate) fn check_nvidia(&self, root: &Cert) -> Result<Vouching, String> {
        check_pinned(root, NVIDIA_PIN, &self.nvidia_test, "NVIDIA's")
    }

    pub(crate) fn sets(&self) -> &[RootSet] {
        &self.sets
    }
}

impl fmt::Debug for TrustRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amd =
            self.sets.iter().map(|set| format!("{} {}", if set.test { "test" } else { "AMD" }, set.product));
        let intel = self.intel_test.iter().map(|_| "test TDX".to_owned());
        let nvidia = self.nvidia_test.iter().map(|_| "test NVIDIA".to_owned());
        f.debug_list().entries(amd).entry(&"Intel").entry(&"NVIDIA").entries(intel).entries(nvidia).finish()
    }
}

/// Test roots that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the test roots are unusable: {why}")]
pub struct InvalidRoots {
    why: String,
}

impl InvalidRoots {
    fn new(why: String) -> Self {
        InvalidRoots { why }
    }

    /// Stable name for logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "TEST_ROOTS_INVALID"
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        "pass the PEM file that the emulator wrote at its start: ASK, ARK and optionally ASVK, or the root of \
         TDX or of GPUs"
            .to_owned()
    }
}

/// Whose root it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vouching {
    Vendor,
    Test,
}

/// Finds out whose root it is: the vendor's by the `pin`, or one of `test`; then checks what must hold of any root.
fn check_pinned(root: &Cert, pin: &str, test: &[[u8; 32]], whose: &str) -> Result<Vouching, String> {
    let digest = root.sha256();
    let kind = if hex::encode(digest) == pin {
        Vouching::Vendor
    } else if test.contains(&digest) {
        Vouching::Test
    } else {
        return Err(format!("the root has SHA-256 {}, not {whose}", hex::encode(digest)));
    };
    check_self_signed(root)?;
    Ok(kind)
}

/// What must hold of a root besides its digest.
fn check_self_signed(root: &Cert) -> Result<(), String> {
    root.check_authority()?;
    root.check_issued_by(root)
}

/// The authorities of one product, as DER.
#[derive(Clone)]
pub(crate) struct RootSet {
    pub(crate) product: Product,
    ark: Vec<u8>,
    ask: Vec<u8>,
    asvk: Option<Vec<u8>>,
    pub(crate) test: bool,
}

/// The same, read and checked against each other.
#[derive(Clone, Debug)]
pub(crate) struct Authorities {
    pub(crate) ark: Cert,
    pub(crate) ask: Cert,
    pub(crate) asvk: Option<Cert>,
}

impl RootSet {
    /// Reads the set and checks all that does not depend on time: names, the pin of a vendor's ARK, its
    /// self-signature, both signatures by it, CA marks, key sizes. The error is a sentence.
    pub(crate) fn authorities(&self) -> Result<Authorities, String> {
        let read = |der: &[u8], name: String| {
            let cert = Cert::read(der).map_err(|why| format!("{name} is unusable: {why}"))?;
            if cert.common_name() == name {
                Ok(cert)
            } else {
                Err(format!("{:?} stands where {name} is expected", cert.common_name()))
            }
        };
        let product = self.product;
        let ark = read(&self.ark, format!("ARK-{product}"))?;
        let ask = read(&self.ask, format!("SEV-{product}"))?;
        let asvk = self.asvk.as_deref().map(|der| read(der, format!("SEV-VLEK-{product}"))).transpose()?;
        if !self.test && !PINS.contains(&(product, &hex::encode(ark.sha256()))) {
            return Err(format!("ARK-{product} has SHA-256 {}, not AMD's", hex::encode(ark.sha256())));
        }
        let min_bits = if self.test { 2048 } else { 4096 };
        ark.check_rsa_authority(min_bits)?;
        ark.check_issued_by(&ark)?;
        for cert in [Some(&ask), asvk.as_ref()].into_iter().flatten() {
            cert.check_rsa_authority(min_bits)?;
            cert.check_issued_by(&ark)?;
        }
        Ok(Authorities { ark, ask, asvk })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_certificates_match_the_pins_and_sign_each_other() {
        let roots = TrustRoots::vendor();
        let found: Vec<_> = roots
            .sets()
            .iter()
            .map(|set| (set.product, hex::encode(set.authorities().unwrap().ark.sha256())))
            .collect();
        let expected: Vec<_> = PINS.iter().map(|(product, pin)| (*product, (*pin).to_owned())).collect();
        assert_eq!(found, expected);
        assert!(roots.sets().iter().all(|set| set.authorities().unwrap().asvk.is_some()));
        assert!(!roots.has_test_roots());
    }

    #[test]
    fn another_products_ark_is_refused() {
        let TrustRoots { mut sets, .. } = TrustRoots::vendor();
        sets[0].ark = sets[1].ark.clone();
        let why = sets[0].authorities().unwrap_err();
        assert!(why.contains("ARK-Genoa"), "{why}");
    }

    #[test]
    fn every_flipped_byte_of_a_built_in_root_is_noticed() {
        let TrustRoots { sets, .. } = TrustRoots::vendor();
        for index in (0..sets[0].ark.len()).step_by(7) {
            let mut set = sets[0].clone();
            set.ark[index] ^= 1;
            assert!(set.authorities().is_err(), "byte {index}");
        }
    }

    #[test]
    fn test_roots_need_a_complete_set() {
        for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let error = TrustRoots::vendor().with_test_roots(pem).unwrap_err();
            assert_eq!(error.code(), "TEST_ROOTS_INVALID", "{pem:?}");
        }
    }
}
