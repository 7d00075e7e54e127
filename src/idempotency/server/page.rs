//! What a service says of its keys, as a page in Markdown.

use std::fmt;
use std::time::Duration;

use super::advice::{Advice, advice};
use super::config::AfterCrash;
use super::keep::{HeaderPolicy, NEVER_IN_WORDS, StoragePolicy};
use super::normalize::Normalize;
use super::scope::Scope;
use super::shared::{Compared, Shared};
use super::telling::REPLAYED;
use crate::idempotency::key::LONGEST;

/// The page, section by section.
pub(super) struct Page<'a>(pub(super) &'a Shared);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key(f)?;
        self.request(f)?;
        self.answer(f)?;
        self.run(f)?;
        self.problems(f)
    }
}

impl Page<'_> {
    fn key(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { config, scope, .. } = self.0;
        let methods = spans(&config.methods, " and ");
        let which = if self.0.guards.is_some() {
            "where the service says so"
        } else {
            "on every route"
        };
        let header = self.0.header.as_str();
        let (must, without) = if config.required {
            ("required", "Without one a request is refused")
        } else {
            (
                "optional",
                "Without one a request is executed as often as it is sent",
            )
        };
        let quotes = if config.lenient {
            "It may also stand there without quotes"
        } else {
            "Without the quotes it is refused"
        };
        let shortest = config.shortest_key;
        let whose = match scope {
            Scope::Global => "All clients share their keys: choose one that nobody else can guess",
            Scope::By(_) => "Your keys are your own: the same key of another client is another key",
        };
        let route = if self.0.route.is_some() {
            "route"
        } else {
            "path"
        };
        write!(
            f,
            "# Idempotency keys of `{name}`

`{header}` on {methods}, {which}: an operation that is sent more than once is done once, and answered each time.

## The key

- It is **{must}**. {without}. The header stands there once.
- It is a string in double quotes (RFC 9651): `{header}: \"8e03978e-40d5-43e8-bc93-6894a57f9324\"`. {quotes}.
- It has {shortest} to {LONGEST} characters of printable ASCII. A random UUID is a good one.
- It is new for each operation, and the same whenever that operation is sent again. {whose}.
- The same key with another method or {route} is another key.
",
            name = self.0.source.name(),
        )
    }

    fn request(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (same, ignored) = match &self.0.compared {
            Compared::Custom(_) => (
                "what the service compares of it is the same".into(),
                Vec::new(),
            ),
            Compared::Normalized(normalize) => (in_words(*normalize), normalize.ignored()),
        };
        let ignored: Vec<&str> = ignored.into_iter().map(|(_, words)| words).collect();
        let ignored = if ignored.is_empty() {
            String::new()
        } else {
            format!(" Not compared: {}.", ignored.join("; "))
        };
        let most = size(self.0.config.max_request_body);
        write!(
            f,
            "
## The request

- A request is a repetition if {same}.{ignored} Another request with a key that was used is refused with 422.
- Its body has {most} at most.
"
        )
    }

    fn answer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.0.config;
        let kept = match config.keep {
            StoragePolicy::Definitive => {
                "Every response is stored, errors and failures included, except 401, 407, 425, 429, and 503 with `Retry-After`"
            }
            StoragePolicy::SuccessOnly => "Only responses below 400 are stored",
            StoragePolicy::DeleteOnError => {
                "Responses below 500 are stored, except 401, 407, 425 and 429"
            }
        };
        let next = match config.after_crash {
            AfterCrash::RunAgain => "the operation is executed again",
            AfterCrash::Refuse => {
                "the outcome of the operation is unknown, unless the service knows that it did not happen"
            }
        };
        let before = if config.handlers_take_operation {
            " A response from before the operation began is not stored either, and nothing was done."
        } else {
            ""
        };
        let expires = if config.expires_header {
            "\n- `Idempotency-Expires` is the time at which the key is new again."
        } else {
            ""
        };
        let headers = match &config.headers {
            HeaderPolicy::All => format!("its headers but {NEVER_IN_WORDS}"),
            HeaderPolicy::Only(names) if names.is_empty() => "none of its headers".into(),
            HeaderPolicy::Only(names) => format!("of its headers {}", spans(names, " and ")),
        };
        let (ttl, most) = (time(config.ttl), size(config.max_response_body));
        write!(
            f,
            "
## The answer

- It is kept for **{ttl}**, counted from when it was given. Afterwards the key is new again: do not repeat a request later than that.
- {kept}.{before} A repetition after a response that is not stored: {next}.
- A repetition is given the same status and body, {headers}, and `{REPLAYED}: true`.
- If its body has more than {most}, or is a stream, only that the operation was done is kept.{expires}
"
        )
    }

    fn run(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.0.config;
        let waits = if config.wait.is_zero() {
            "is told so at once, with 409".into()
        } else {
            format!(
                "waits {} for its answer, and is then told so, with 409",
                time(config.wait)
            )
        };
        let cut_off = match config.after_crash {
            AfterCrash::RunAgain => "may be run again by the next request with its key",
            AfterCrash::Refuse => "is not run again under its key: its outcome is unknown",
        };
        let closed = if config.fail_open {
            "a request is executed as if it had no key"
        } else {
            "a request is refused with 503"
        };
        let (longest, lease, store) = (
            time(config.max_run),
            time(config.lease),
            time(config.store_timeout),
        );
        let (max, max_waiting) = (config.max_running, config.max_waiting);
        let per_tenant = match config.max_running_per_tenant {
            Some(max) => format!(", and at most {max} of one client"),
            None => String::new(),
        };
        write!(
            f,
            "
## While it runs

- Each process of the service executes at most {max} operations at a time{per_tenant}. Beyond that, a request is refused with 503 and
  `Retry-After`. At most {max_waiting} requests wait for the answer of another one; further ones are told 409 at once.
- A repetition of an operation that is under way {waits}.
- An operation goes on if its client leaves. It takes {longest} at most; past that its outcome is unknown.
- An operation that was cut off, and not heard of for {lease}, {cut_off}.
- If what is known of a key cannot be looked up within {store}, {closed}.
"
        )
    }

    fn problems(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { config, scope, .. } = self.0;
        f.write_str(
            "
## Problems

As `application/problem+json` (RFC 9457). Tell them apart by their `type`.

| status | title | send it again? | what to do | `type` |
|---|---|---|---|---|
",
        )?;
        for advice in advice(config, scope) {
            let Advice { problem, again, .. } = &advice;
            let what = if advice.occurs {
                advice.what
            } else {
                "Does not occur here."
            };
            let (status, title, again) = (problem.status(), problem.title(), again.in_words());
            writeln!(
                f,
                "| {status} | {title} | {again} | {what} | <{uri}> |",
                uri = problem.uri()
            )?;
        }
        Ok(())
    }
}

/// The compared fields in words.
fn in_words(normalize: Normalize) -> String {
    let fields: Vec<&str> = normalize
        .compared()
        .into_iter()
        .map(|field| match field {
            "authority" => "host",
            "content-type" => "`content-type`",
            field => field,
        })
        .collect();
    match &fields[..] {
        [fields @ .., last] => {
            let fields = fields.join(", ");
            format!("{fields} and {last} are the same, byte for byte")
        }
        [] => String::new(),
    }
}

/// Each in a span of code.
fn spans(words: &[String], between: &str) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(between)
}

fn time(time: Duration) -> String {
    match (time.as_secs(), time.subsec_nanos()) {
        (secs, 0) if secs > 0 && secs % 3600 == 0 => format!("{} h", secs / 3600),
        (secs, 0) if secs > 0 && secs % 60 == 0 => format!("{} min", secs / 60),
        (secs, 0) => format!("{secs} s"),
        _ => format!("{time:?}"),
    }
}

fn size(bytes: usize) -> String {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    match bytes {
        bytes if bytes > 0 && bytes % MIB == 0 => format!("{} MiB", bytes / MIB),
        bytes if bytes > 0 && bytes % KIB == 0 => format!("{} KiB", bytes / KIB),
        bytes => format!("{bytes} bytes"),
    }
}
