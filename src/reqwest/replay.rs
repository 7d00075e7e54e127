//! Repeats reqwest's requests.

use ::reqwest::Request;

use crate::call::Call;
use crate::http::{HttpRequest, Kept, Replay};
use crate::outcome::Outcome;
use crate::retry::Repeat;

/// A request whose body is a stream cannot be copied: it is sent once.
impl Repeat<Request> for Replay {
    type Attempt = Request;
    type Saved = Kept<Request>;

    fn first(&self, mut request: Request) -> (Request, Option<Kept<Request>>) {
        let saved = self.keep(&request, Request::try_clone);
        self.number(1, HttpRequest::headers_mut(&mut request));
        (request, saved)
    }

    fn only(&self, mut request: Request) -> Request {
        self.number(1, HttpRequest::headers_mut(&mut request));
        request
    }

    fn again(&self, saved: &mut Kept<Request>) -> Option<Request> {
        let mut request = saved.request().try_clone()?;
        self.number(Call::current().attempt, request.headers_mut());
        Some(request)
    }

    fn may_repeat(&self, saved: &Kept<Request>, _outcome: &Outcome) -> bool {
        saved.is_safe()
    }
}

#[cfg(test)]
mod tests {
    use ::http::Method;
    use ::reqwest::Body;

    use super::*;

    fn request(method: Method) -> Request {
        Request::new(method, "https://api.example.com/orders".parse().unwrap())
    }

    #[test]
    fn a_buffered_request_is_repeated_as_it_was() {
        let mut post = request(Method::PUT);
        *post.body_mut() = Some("one of each".into());
        post.headers_mut().insert("x-order", "7".parse().unwrap());
        let replay = Replay::new().attempt_header(true);
        let (_, saved) = replay.first(post);
        let mut saved = saved.unwrap();
        assert!(Repeat::<Request>::may_repeat(
            &replay,
            &saved,
            &Outcome::TRANSIENT
        ));
        let _second = Call::new(2, false).enter();
        let again = Repeat::<Request>::again(&replay, &mut saved).unwrap();
        assert_eq!(again.body().unwrap().as_bytes(), Some(&b"one of each"[..]));
        assert_eq!(again.headers()["x-order"], "7");
        assert_eq!(again.headers()["x-envoy-attempt-count"], "2");
    }

    #[test]
    fn a_streaming_request_is_sent_once() {
        let mut put = request(Method::PUT);
        let stream = Body::wrap(http_body_util::StreamBody::new(Empty));
        *put.body_mut() = Some(stream);
        let (sent, saved) = Replay::new().first(put);
        assert!(saved.is_none());
        assert!(sent.body().is_some());
    }

    /// A stream that ends at once.
    struct Empty;

    impl futures_core::Stream for Empty {
        type Item = Result<http_body::Frame<bytes::Bytes>, std::io::Error>;

        fn poll_next(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(None)
        }
    }
}
