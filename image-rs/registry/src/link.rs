//! Where a list goes on: `Link` with the relation `next` (RFC 8288 section 3), as registries page their lists.

/// Longest header read, in bytes.
const MAX_LEN: usize = 8192;

/// The target of the link to the next page; `None` if there is none.
///
/// # Errors
/// The header is not a list of links, or names two next pages.
pub fn next_page(header: &str) -> Result<Option<String>, &'static str> {
    if header.len() > MAX_LEN {
        return Err("it is longer than 8192 bytes");
    }
    let mut rest = header.trim();
    let mut next = None;
    while !rest.is_empty() {
        let target = rest.strip_prefix('<').ok_or("a link does not begin with <")?;
        let (target, after) = target.split_once('>').ok_or("a link does not end with >")?;
        let (is_next, after) = parameters(after)?;
        if is_next && next.replace(target.to_owned()).is_some() {
            return Err("it names two next pages");
        }
        rest = after;
    }
    Ok(next)
}

/// Reads the parameters of one link: whether it leads to the next page, and what comes after it.
fn parameters(text: &str) -> Result<(bool, &str), &'static str> {
    let (mut rest, mut relation) = (text.trim_start(), None);
    loop {
        if rest.is_empty() {
            return Ok((is_next(relation), ""));
        }
        if let Some(after) = rest.strip_prefix(',') {
            return Ok((is_next(relation), after.trim_start_matches([' ', '\t', ','])));
        }
        rest = rest.strip_prefix(';').ok_or("something else than a parameter follows a link")?.trim_start();
        let end = rest.find(['=', ';', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => value(after.trim_start())?,
            None => ("", after),
        };
        // Of several relations the first counts (RFC 8288 section 3.3).
        if name.trim().eq_ignore_ascii_case("rel") && relation.is_none() {
            relation = Some(value);
        }
        rest = after.trim_start();
    }
}

/// A value, quoted or not, and what follows it. Escapes inside quotes are left as they are: no relation has them.
fn value(text: &str) -> Result<(&str, &str), &'static str> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t']).unwrap_or(text.len());
        return text.split_at_checked(end).ok_or("a value is not text");
    };
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                return Ok((quoted.get(..at).unwrap_or_default(), quoted.get(at + 1..).unwrap_or_default()));
            }
            _ => {}
        }
    }
    Err("a string has no end")
}

fn is_next(relation: Option<&str>) -> bool {
    relation.is_some_and(|relation| {
        relation.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_page_is_found() {
        for (header, expected) in [
            ("", None),
            ("</v2/a/referrers/x?n=1>; rel=\"next\"", Some("/v2/a/referrers/x?n=1")),
            ("</a>; rel=next", Some("/a")),
            ("</a>; REL=\"prev Next\"", Some("/a")),
            ("</a>; rel=\"prev\", </b>; title=\"a, b; \\\" c\"; rel=\"next\"", Some("/b")),
            ("</a>; rel=\"prev\"; rel=\"next\"", None),
            ("</a>", None),
            ("</a>;rel", None),
            (" <https://x/a,b;c> ; rel = next ,", Some("https://x/a,b;c")),
            ("<https://x/a,b;c> ; rel=next ,", Some("https://x/a,b;c")),
        ] {
            assert_eq!(next_page(header), Ok(expected.map(str::to_owned)), "{header}");
        }
    }

    #[test]
    fn what_is_no_list_of_links_is_refused() {
        let long = format!("<{}>; rel=next", "a".repeat(MAX_LEN));
        for bad in [
            "/a; rel=next",
            "</a; rel=next",
            "</a> rel=next",
            "</a>; rel=\"next",
            "</a>; rel=next, </b>; rel=next",
            &long,
        ] {
            assert!(next_page(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[<>;,=\"\\\\a-z ]{0,60}|\\PC{0,60}") {
            let _ = next_page(&text);
        }

        #[test]
        fn what_is_written_is_read(target in "[a-z/:?&,;=]{1,40}", title in "[ -!#-\\[\\]-~]{0,20}") {
            let header = format!("<{target}>; title=\"{title}\"; rel=\"next\"");
            prop_assert_eq!(next_page(&header), Ok(Some(target)));
        }
    }
}
