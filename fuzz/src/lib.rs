//! Helpers that the targets share.

use http::{HeaderName, HeaderValue, Response, StatusCode};

/// A response with these header lines; those that could not come over the wire are left out.
pub fn response<'a>(
    status: StatusCode,
    lines: impl IntoIterator<Item = (&'static str, &'a [u8])>,
) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    for (name, value) in lines {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// The lines of the input.
pub fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == b'\n')
}
