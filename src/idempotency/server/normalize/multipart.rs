//! Multipart bodies without their boundary (RFC 2046 §5.1).

/// The preamble, the parts and the epilogue; `None` if the body is not well-formed, or parsers could disagree about where a part
/// ends.
pub(super) fn split<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<&'a [u8]>> {
    let delimiter = format!("\r\n--{boundary}");
    let delimiter = delimiter.as_bytes();
    let (preamble, mut rest) = match body.strip_prefix(&delimiter[2..]) {
        Some(rest) => (&body[..0], rest),
        None => cut(body, delimiter)?,
    };
    let mut parts = vec![preamble];
    loop {
        if let Some(epilogue) = rest.strip_prefix(b"--") {
            parts.push(epilogue);
            // A parser that continues past the end would find another part.
            return cut(epilogue, delimiter).is_none().then_some(parts);
        }
        let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
        let line_end = &rest[padding.count()..];
        let part = line_end.strip_prefix(b"\r\n")?;
        if part.starts_with(&delimiter[2..]) {
            // Two delimiters share a line break: an empty part, or the content of one.
            return None;
        }
        let (part, after) = cut(part, delimiter)?;
        parts.push(part);
        rest = after;
    }
}

/// Splits the text at the first occurrence of `at`.
fn cut<'a>(text: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = text.windows(at.len()).position(|window| window == at)?;
    Some((&text[..start], &text[start + at.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_split_into_its_parts() {
        for (body, parts) in [
            ("--b\r\n\r\none\r\n--b--", &["", "\r\none", ""][..]),
            (
                "intro\r\n--b \t\r\na: 1\r\n\r\none\r\n--b\r\n\r\n\r\n--b--\r\nend",
                &["intro", "a: 1\r\n\r\none", "\r\n", "\r\nend"],
            ),
            ("--b--\r\n", &["", "\r\n"]),
            // The boundary inside a line is content.
            ("--b\r\n\r\nx--b\r\n--b--", &["", "\r\nx--b", ""]),
        ] {
            let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
            assert_eq!(split(body.as_bytes(), "b"), Some(parts), "{body:?}");
        }
    }

    #[test]
    fn a_body_that_parsers_may_read_in_two_ways_is_not_split() {
        for body in [
            "",
            "no boundary",
            "--b\r\n\r\ncut off",
            "--b\r\n\r\none\r\n--b",
            // Another boundary begins with this one.
            "--b\r\n\r\none\r\n--bc\r\n--b--",
            // Line feeds alone.
            "--b\n\none\n--b--",
            // One line break for two delimiters.
            "--b\r\n--b--",
            "--b\r\n--b\r\n\r\none\r\n--b--",
            "--b\r\n\r\none\r\n--b--\r\n--b\r\n\r\ntwo\r\n--b--",
        ] {
            assert_eq!(split(body.as_bytes(), "b"), None, "{body:?}");
        }
    }
}
