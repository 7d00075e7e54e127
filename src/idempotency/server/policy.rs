//! What a service says of its keys.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use super::advice::advice;
use super::config::AfterCrash;
use super::keep::{HeaderPolicy, StoragePolicy};
use super::page::Page;
use super::scope::Scope;
use super::shared::{Compared, Shared};
use super::telling::REPLAYED;
use crate::idempotency::key::LONGEST;

/// What the clients of a service must know of its idempotency keys, and the draft of the IETF
/// (draft-ietf-httpapi-idempotency-key-header §2.5.2) says must be published: which requests want one, what it looks like,
/// for how long it is known, and what each problem asks them to do. Made from the settings by
/// [`IdempotencyLayer::policy`](super::IdempotencyLayer::policy), so that it is true.
///
/// As text it is a page in Markdown.
///
/// ```
/// use axum::{Router, routing::{get, post}};
/// use buttress::http::answer;
/// use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
/// use buttress::idempotency::store::MemoryStore;
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let once = IdempotencyLayer::new("payments", MemoryStore::new(), Scope::Global, IdempotencyConfig::default())?;
/// let (page, data) = (once.policy().to_string(), once.policy().to_json());
/// let app: Router = Router::new()
///     .route("/payments", post(async || "paid"))
///     .layer(answer(once))
///     .route("/idempotency", get(async || ([("content-type", "text/markdown; charset=utf-8")], page)))
///     .route("/idempotency.json", get(async || ([("content-type", "application/json")], data)));
/// # let _ = app;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Policy {
    shared: Arc<Shared>,
}

impl Policy {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The same as an object of JSON. Times are in seconds, sizes in bytes; members may be added, none changes its meaning.
    pub fn to_json(&self) -> String {
        let Shared { config, scope, .. } = &*self.shared;
        let problems: Vec<Value> = advice(config, scope)
            .iter()
            .map(|advice| {
                let problem = &advice.problem;
                json!({
                    "type": problem.uri(), "title": problem.title(), "status": problem.status(),
                    "occurs": advice.occurs, "send_again": advice.again.as_str(), "what_to_do": advice.what,
                })
            })
            .collect();
        let (compared, ignored) = match &self.shared.compared {
            Compared::Custom(_) => (json!("custom"), json!("custom")),
            Compared::Normalized(normalize) => {
                let ignored = normalize.ignored().into_iter().map(|(name, _)| name);
                let ignored: Vec<&str> = ignored.collect();
                (json!(normalize.compared()), json!(ignored))
            }
        };
        let policy = json!({
            "name": &**self.shared.source.name(),
            "methods": config.methods,
            "guards": if self.shared.guards.is_some() { "some" } else { "all" },
            "key": {
                "header": self.shared.header.as_str(), "required": config.required, "unquoted_accepted": config.lenient,
                "shortest": config.shortest_key, "longest": LONGEST,
                "scope": match scope { Scope::Global => "global", Scope::By(_) => "tenant" },
                "route": if self.shared.route.is_some() { "custom" } else { "path" },
            },
            "request": { "compared": compared, "ignored": ignored, "max_bytes": config.max_request_body },
            "answer": {
                "kept_for": config.ttl.as_secs_f64(),
                "kept": match config.keep {
                    StoragePolicy::Definitive => "definitive",
                    StoragePolicy::SuccessOnly => "success_only",
                    StoragePolicy::DeleteOnError => "delete_on_error",
                },
                "headers": match &config.headers { HeaderPolicy::All => json!("all"), HeaderPolicy::Only(names) => json!(names) },
                "max_bytes": config.max_response_body,
                "replayed_header": REPLAYED,
                "expires_header": config.expires_header,
            },
            "run": {
                "longest": config.max_run.as_secs_f64(), "lease": config.lease.as_secs_f64(), "wait": config.wait.as_secs_f64(),
                "at_most": config.max_running, "at_most_per_tenant": config.max_running_per_tenant, "waiting_at_most": config.max_waiting,
                "released_if_not_taken": config.handlers_take_operation,
                "after_crash": match config.after_crash { AfterCrash::RunAgain => "run_again", AfterCrash::Refuse => "refuse" },
            },
            "store": { "timeout": config.store_timeout.as_secs_f64(), "unavailable": if config.fail_open { "unprotected" } else { "refused" } },
            "problems": problems,
        });
        policy.to_string()
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Policy").field(&self.shared).finish()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Page(&self.shared).fmt(f)
    }
}
