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
