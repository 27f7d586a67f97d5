//! Names of AWS regions, and the hosts that serve them.
//!
//! A region's name becomes part of a host name, and it comes from the document: so only what looks like a region of AWS does, and
//! only below AWS' own domains (AWS General Reference, "Service endpoints and quotas").

/// Longest name, in bytes.
const MAX_LEN: usize = 32;

/// The name of a region, such as `eu-central-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region(String);

impl Region {
    /// Checks `name`: two to four letters, one or more words, and a number of one or two digits, separated by dashes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(name: &str) -> Result<Self, &'static str> {
        const BAD: &str = "is not a region's name, such as eu-central-1";
        let parts: Vec<&str> = name.split('-').collect();
        let [place, words @ .., number] = parts.as_slice() else { return Err(BAD) };
        let lower = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
        let digits = |part: &str| part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit());
        let good = name.len() <= MAX_LEN
            && (2..=4).contains(&place.len())
            && lower(place)
            && !words.is_empty()
            && words.iter().all(|word| lower(word))
            && !number.is_empty()
            && digits(number);
        if good { Ok(Self(name.to_owned())) } else { Err(BAD) }
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// The host of `service` here; none in the regions apart from the internet, whose domains are not public knowledge.
    pub(super) fn host(&self, service: &str) -> Option<String> {
        let domain = match self.0.split('-').collect::<Vec<_>>().as_slice() {
            [_, words, ..] if words.starts_with("iso") => return None,
            ["cn", ..] => "amazonaws.com.cn",
            ["eusc", ..] => "amazonaws.eu",
            _ => "amazonaws.com",
        };
        Some(format!("{service}.{}.{domain}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn regions_and_their_hosts() {
        for (name, host) in [
            ("eu-central-1", Some("kms.eu-central-1.amazonaws.com")),
            ("us-gov-west-1", Some("kms.us-gov-west-1.amazonaws.com")),
            ("ap-southeast-15", Some("kms.ap-southeast-15.amazonaws.com")),
            ("cn-north-1", Some("kms.cn-north-1.amazonaws.com.cn")),
            ("eusc-de-east-1", Some("kms.eusc-de-east-1.amazonaws.eu")),
            ("us-iso-east-1", None),
            ("us-isob-east-1", None),
        ] {
            assert_eq!(Region::parse(name).unwrap().host("kms").as_deref(), host, "{name}");
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for name in [
            "",
            "eu",
            "eu-1",
            "eu-central",
            "eu-central-",
            "eu-central-100",
            "EU-central-1",
            "eu--1",
            "eu-central-1.evil.example",
            "eu-central-1/",
            "evil.example/?x=-a-1",
            "x@evil-a-1",
            "eu-central-1:443",
            "eu-central-1#",
            "eu-central-1\n",
            "eu-céntral-1",
            "eu-abcdefghijklmnopqrstuvwxyzabc-1",
        ] {
            assert!(Region::parse(name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_accepted_name_stays_below_the_domains_of_aws(name in "[a-z@:/.#-]{0,20}-?[a-z0-9.]{0,6}-?[0-9]{0,3}") {
            if let Some(host) = Region::parse(&name).ok().and_then(|region| region.host("kms")) {
                prop_assert!(host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn") || host.ends_with(".amazonaws.eu"));
                prop_assert!(host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
            }
        }
    }
}
