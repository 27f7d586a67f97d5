//! What a registry asks for before it answers: `WWW-Authenticate` (RFC 9110 section 11.6.1, RFC 6750 section 3).
//!
//! A header holds a list of challenges, each a scheme and a list of parameters, both separated by commas. Read
//! strictly: a parameter that is given twice, a quoted string without its end, or two words where one belongs makes
//! the whole header no challenge, because another reader could read it otherwise. Schemes that are not known are skipped.

/// Longest header read, in bytes.
const MAX_LEN: usize = 4096;
/// Most parameters of one challenge.
const MAX_PARAMETERS: usize = 16;

/// A way to authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request (RFC 7617).
    Basic,
    /// A token that `realm` gives for `service`.
    Bearer {
        /// URL of the token service.
        realm: String,
        /// Name of the registry there.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads the values of all `WWW-Authenticate` headers of an answer; gives the first known challenge, a token before a
    /// password.
    ///
    /// # Errors
    /// Which rule they break, or that there is no challenge that can be met.
    pub fn choose<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, &'static str> {
        let mut all = Vec::new();
        let mut length = 0;
        for header in headers {
            length += header.len();
            if length > MAX_LEN {
                return Err("it is longer than 4096 bytes");
            }
            let text = std::str::from_utf8(header).map_err(|_| "it is not text")?;
            all.extend(Reader(text).challenges()?);
        }
        let basic = all.contains(&Self::Basic).then_some(Self::Basic);
        let bearer = all.into_iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(basic).ok_or("it asks for neither Basic nor Bearer")
    }
}

struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn challenges(mut self) -> Result<Vec<Challenge>, &'static str> {
        let mut all = Vec::new();
        self.skip_commas();
        while !self.0.is_empty() {
            let scheme = self.token().ok_or("a scheme is not a word")?;
            let after_space = self.0.starts_with([' ', '\t']);
            self.skip_spaces();
            if !self.0.is_empty() && !after_space && !self.0.starts_with(',') {
                return Err("a scheme is not a word");
            }
            let parameters = self.parameters()?;
            all.extend(challenge(scheme, parameters)?);
            self.skip_commas();
        }
        Ok(all)
    }

    /// Parameters up to the end or the next scheme.
    fn parameters(&mut self) -> Result<Vec<(String, String)>, &'static str> {
        let mut all: Vec<(String, String)> = Vec::new();
        loop {
            let before = self.0;
            self.skip_commas();
            let Some(name) = self.token() else {
                self.skip_token68();
                return Ok(all);
            };
            self.skip_spaces();
            let Some(rest) = self.0.strip_prefix('=').filter(|_| !self.is_token68(before)) else {
                // The word is the next scheme, or credentials of a scheme that has no parameters.
                self.0 = before;
                self.skip_token68();
                return Ok(all);
            };
            self.0 = rest;
            self.skip_spaces();
            let value = self.value()?;
            self.skip_spaces();
            if !self.0.is_empty() && !self.0.starts_with(',') {
                return Err("two values stand side by side");
            }
            let name = name.to_ascii_lowercase();
            if all.iter().any(|(other, _)| *other == name) {
                return Err("a parameter is given twice");
            }
            if all.len() >= MAX_PARAMETERS {
                return Err("a challenge has more than 16 parameters");
            }
            all.push((name, value));
        }
    }

    /// Whether `text` begins with a token68 that ends the challenge, such as `Negotiate YWJj==`.
    fn is_token68(&self, text: &str) -> bool {
        let text = text.trim_start_matches([' ', '\t']);
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let word = text.get(..end).unwrap_or_default();
        let trimmed = word.trim_end_matches('=');
        trimmed.len() < word.len()
            && !trimmed.contains(['=', '"'])
            && text
                .get(end..)
                .unwrap_or_default()
                .trim_start_matches([' ', '\t'])
                .chars()
                .next()
                .is_none_or(|c| c == ',')
    }

    fn skip_token68(&mut self) {
        if self.is_token68(self.0) {
            let text = self.0.trim_start_matches([' ', '\t']);
            let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
            self.0 = text.get(end..).unwrap_or_default();
        }
    }

    fn value(&mut self) -> Result<String, &'static str> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return self.token().map(str::to_owned).ok_or("a parameter has no value");
        };
        let (mut value, mut escaped) = (String::new(), false);
        for (at, c) in quoted.char_indices() {
            match c {
                _ if c.is_control() && c != '\t' => return Err("a control character is in a string"),
                _ if escaped => {
                    value.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.0 = quoted.get(at + 1..).unwrap_or_default();
                    return Ok(value);
                }
                _ => value.push(c),
            }
        }
        Err("a string has no end")
    }

    /// RFC 9110 section 5.6.2.
    fn token(&mut self) -> Option<&'a str> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = self.0.find(|c| !is_token(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    fn skip_spaces(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn skip_commas(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
    }
}

fn challenge(scheme: &str, parameters: Vec<(String, String)>) -> Result<Option<Challenge>, &'static str> {
    if scheme.eq_ignore_ascii_case("basic") {
        return Ok(Some(Challenge::Basic));
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let (mut realm, mut service) = (None, None);
    for (name, value) in parameters {
        match name.as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            _ => {}
        }
    }
    let realm = realm.ok_or("a token is asked for and nothing says where it is")?;
    Ok(Some(Challenge::Bearer { realm, service }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Challenge, &'static str> {
        Challenge::choose([text.as_bytes()])
    }

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) }
    }

    #[test]
    fn challenges_of_registries_are_read() {
        for (text, challenge) in [
            ("Basic realm=\"Registry\"", Challenge::Basic),
            ("basic", Challenge::Basic),
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull\"",
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            ("BEARER  Realm = \"https://a/t\" , service=x", bearer("https://a/t", Some("x"))),
            ("Bearer realm=\"https://a/\\t\\\"\"", bearer("https://a/t\"", None)),
            ("Basic realm=\"a, b=c\", Bearer realm=\"https://a\"", bearer("https://a", None)),
            (", ,Negotiate YWJj==, Basic realm=x,", Challenge::Basic),
            ("Negotiate, Basic", Challenge::Basic),
            ("Digest realm=\"x\", nonce=\"y\", Basic realm=\"x\"", Challenge::Basic),
            ("Bearer realm=\"a\", error=\"insufficient_scope\"", bearer("a", None)),
        ] {
            assert_eq!(read(text), Ok(challenge), "{text}");
        }
        let both = [&b"Basic realm=x"[..], b"Bearer realm=y"];
        assert_eq!(Challenge::choose(both), Ok(bearer("y", None)));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let long = format!("Bearer realm=\"{}\"", "a".repeat(5000));
        let many: String = (0..40).map(|i| format!("a{i}=b,")).collect();
        let many = format!("Bearer realm=x,{many}");
        for bad in [
            "",
            ",",
            "Bearer",
            "Bearer service=\"x\"",
            "Bearer realm=\"x",
            "Bearer realm=\"x\" service=\"y\"",
            "Bearer realm=\"x\", realm=\"y\"",
            "Bearer realm=\"x\", REALM=\"y\"",
            "Bearer realm=x=y",
            "Bearer realm=\"a\nb\"",
            "Bearer realm=\"x\\",
            "=x",
            "\"Bearer\" realm=x",
            "Digest realm=\"x\"",
            long.as_str(),
            many.as_str(),
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(Challenge::choose([&b"Bearer realm=\"\xff\""[..]]).is_err());
        assert!(Challenge::choose([]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in "[A-Za-z=\", \\\\]{0,40}") {
            let _ = Challenge::choose([&bytes[..], text.as_bytes()]);
        }

        #[test]
        fn quoted_values_come_through(realm in "[ -~]{1,60}", service in "[ -~]{0,60}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("Bearer realm=\"{}\",service=\"{}\"", quote(&realm), quote(&service));
            prop_assert_eq!(read(&text), Ok(bearer(&realm, Some(&service))));
        }
    }
}
