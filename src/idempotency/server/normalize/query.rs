//! Query parameters by name.

use percent_encoding::percent_decode_str;

/// The parameters sorted by their names; those of one name keep their order, and all keep their notation.
pub(super) fn sorted(query: &str) -> Vec<u8> {
    let mut parameters: Vec<(Vec<u8>, &str)> = query
        .split('&')
        .map(|parameter| (name(parameter), parameter))
        .collect();
    // Stable. By decoded names, because a name written in two ways is still one name.
    parameters.sort_by(|(one, _), (other, _)| one.cmp(other));
    let parameters: Vec<&str> = parameters.iter().map(|(_, one)| *one).collect();
    parameters.join("&").into_bytes()
}

fn name(parameter: &str) -> Vec<u8> {
    let name = parameter.split('=').next().unwrap_or_default();
    percent_decode_str(&name.replace('+', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_name_keep_their_order() {
        for (query, sorted_query) in [
            ("", ""),
            ("b=1&a=2", "a=2&b=1"),
            ("b=1&a=2&b=0&a=1", "a=2&a=1&b=1&b=0"),
            // One name in three notations.
            ("z+=1&a&z%20=2&z =0&y", "a&y&z+=1&z%20=2&z =0"),
            ("b=1&%61=2&a=1", "%61=2&a=1&b=1"),
            ("b==&&a=%", "&a=%&b=="),
        ] {
            assert_eq!(sorted(query), sorted_query.as_bytes(), "{query}");
        }
    }
}
