//! Which redirects the client below a stack follows.

/// Which redirects the HTTP client below a stack follows by itself.
///
/// An error of a client concerns the last request that it sent. After a redirect, a POST may have been executed although its
/// error is a refused connection: the connection to the target of the redirect. Where redirects may be followed unreported, no
/// error proves that a request was not executed, and a request that is not safe to replay is sent once.
///
/// Requests that are safe to replay are retried in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Redirects {
    /// As the client does by default: reqwest follows redirects, other clients follow none.
    #[default]
    ClientDefault,
    /// The client follows none: hyper and tonic, and reqwest with `redirect::Policy::none()`.
    None,
    /// The client follows some, and reports each to the layers around it: reqwest with the policy
    /// [`same_origin_redirects`](crate::reqwest::same_origin_redirects).
    Marked,
    /// The client follows some without reporting them: reqwest with any other policy, or tower-http's `FollowRedirect` inside
    /// the stack.
    Followed,
}

impl Redirects {
    /// Whether a redirect may have been followed without a report, if the client is one that follows them `by_default`.
    pub(crate) const fn may_be_hidden(self, by_default: bool) -> bool {
        match self {
            Self::ClientDefault => by_default,
            Self::None | Self::Marked => false,
            Self::Followed => true,
        }
    }
}
