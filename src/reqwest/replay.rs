//! Replays reqwest's requests.

use std::fmt;

use ::reqwest::{Body, Request};

use crate::http::{BodyBuffer, Replay, ReplayBody, Saved};
use crate::outcome::Outcome;
use crate::retry::ReplayPolicy;

/// The request as saved by [`Replay`].
pub struct SavedRequest {
    saved: Saved<Request>,
    /// The body, if it is a stream: reqwest clones all others.
    body: Option<BodyBuffer<Body>>,
}

impl fmt::Debug for SavedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedRequest")
            .field("saved", &self.saved)
            .field("body", &self.body)
            .finish()
    }
}

/// A streaming body is buffered while it is sent, up to the [limit](Replay::buffer_limit).
impl ReplayPolicy<Request> for Replay {
    type Attempt = Request;
    type Saved = SavedRequest;

    fn first(&self, mut request: Request) -> (Request, Option<SavedRequest>) {
        let is_stream = |body: &Body| body.as_bytes().is_none();
        let stream = match request.body() {
            Some(body) if is_stream(body) => request.body_mut().take(),
            _ => None,
        };
        let saved = self.save(&request, Request::try_clone);
        let mut buffer = None;
        if let Some(mut stream) = stream {
            if saved.is_some() {
                let (first, saved) = ReplayBody::new(stream, self.buffers());
                stream = Body::wrap(first);
                buffer = Some(saved);
            }
            *request.body_mut() = Some(stream);
        }
        let saved = saved.map(|saved| SavedRequest {
            saved,
            body: buffer,
        });
        (request, saved)
    }

    fn only(&self, request: Request) -> Request {
        request
    }

    fn again(&self, saved: &mut SavedRequest) -> Option<Request> {
        let mut request = saved.saved.request().try_clone()?;
        if let Some(buffer) = &saved.body {
            *request.body_mut() = Some(Body::wrap(buffer.again()?));
        }
        self.replay_headers(request.headers_mut());
        Some(request)
    }

    fn is_safe(&self, saved: &SavedRequest, outcome: &Outcome) -> bool {
        self.is_safe_to_replay(&saved.saved, outcome)
    }

    fn trusts_not_executed(&self, saved: &SavedRequest) -> bool {
        saved.saved.trusts_not_executed()
    }

    fn is_replayable(&self, saved: &SavedRequest) -> bool {
        saved.body.as_ref().is_none_or(BodyBuffer::is_replayable)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use ::http::Method;
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;
    use crate::call::Call;
    use crate::http::Redirects;

    fn request(method: Method, body: Body) -> Request {
        let mut request = Request::new(method, "https://api.example.com/orders".parse().unwrap());
        *request.body_mut() = Some(body);
        request
    }

    fn again(replay: &Replay, saved: &mut SavedRequest) -> Option<Request> {
        ReplayPolicy::<Request>::again(replay, saved)
    }

    #[test]
    fn a_buffered_request_is_replayed_unchanged() {
        let mut put = request(Method::PUT, "one of each".into());
        put.headers_mut().insert("x-order", "7".parse().unwrap());
        let replay = Replay::new();
        let mut saved = replay.first(put).1.unwrap();
        let is_safe = ReplayPolicy::<Request>::is_safe(&replay, &saved, &Outcome::TRANSIENT);
        assert!(is_safe);
        let _second = Call::new(2, false).enter();
        let again = again(&replay, &mut saved).unwrap();
        assert_eq!(again.body().unwrap().as_bytes(), Some(&b"one of each"[..]));
        assert_eq!(again.headers()["x-order"], "7");
    }

    #[test]
    fn not_executed_is_not_trusted_where_reqwest_may_have_followed_a_redirect() {
        let trusts = |replay: Replay, method| {
            let (_, saved) = replay.first(request(method, Body::default()));
            ReplayPolicy::<Request>::trusts_not_executed(&replay, &saved.unwrap())
        };
        assert!(!trusts(Replay::new(), Method::POST));
        assert!(trusts(Replay::new(), Method::GET));
        for redirects in [Redirects::None, Redirects::Marked] {
            assert!(trusts(Replay::new().redirects(redirects), Method::POST));
        }
    }

    fn streaming(method: Method) -> Request {
        let pieces = vec![Ok("one "), Ok("of each")];
        request(method, Body::wrap_stream(Pieces(pieces.into_iter())))
    }

    async fn read(request: Request) -> Vec<u8> {
        let body = ::http::Request::try_from(request).unwrap().into_body();
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_streaming_body_is_replayed_up_to_the_limit() {
        for (limit, is_replayable) in [(11, true), (10, false)] {
            let replay = Replay::new().buffer_limit(limit);
            let (first, saved) = replay.first(streaming(Method::PUT));
            let mut saved = saved.unwrap();
            assert_eq!(read(first).await, b"one of each");
            let can = ReplayPolicy::<Request>::is_replayable(&replay, &saved);
            assert_eq!(can, is_replayable);
            match again(&replay, &mut saved) {
                Some(second) if is_replayable => assert_eq!(read(second).await, b"one of each"),
                second => assert!(!is_replayable && second.is_none()),
            }
        }
        let (sent, saved) = Replay::new().proxy().first(streaming(Method::POST));
        assert!(saved.is_none(), "not even saved");
        assert_eq!(read(sent).await, b"one of each");
    }

    #[tokio::test]
    async fn the_size_of_a_body_is_preserved() {
        let replay = Replay::new();
        let body = Body::wrap("one of each".to_owned());
        let (first, saved) = replay.first(request(Method::PUT, body));
        assert_eq!(first.body().unwrap().size_hint().exact(), Some(11));
        assert_eq!(read(first).await, b"one of each");
        let second = again(&replay, &mut saved.unwrap()).unwrap();
        assert_eq!(second.body().unwrap().size_hint().exact(), Some(11));
    }

    struct Pieces(std::vec::IntoIter<Result<&'static str, Error>>);

    impl futures_core::Stream for Pieces {
        type Item = Result<&'static str, Error>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.next())
        }
    }
}
