//! Percent-encoding (RFC 3986 section 2.1).

/// A value of a query or a fragment, with what has a meaning there in hexadecimal.
pub(crate) fn escaped(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_is_written_in_hexadecimal() {
        assert_eq!(escaped("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(escaped("a&b=c d#é"), "a%26b%3Dc%20d%23%C3%A9");
    }
}
