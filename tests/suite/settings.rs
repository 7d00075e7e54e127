//! The settings of the standard stacks in configuration files.

use std::time::Duration;

use buttress::backoff::{Backoff, Jitter};
use buttress::breaker::{Abandoned, Breaker, BreakerConfig, BreakerState, Window};
use buttress::budget::{BudgetConfig, RetryBudget, Rule};
use buttress::clock::Now;
use buttress::gate::{KeyBy, KeyedConfig, by};
use buttress::http::deadline::{DeadlineHeader, ExtractDeadlineConfig, ExtractDeadlineLayer};
use buttress::http::{ClientConfig, IdempotencyKeys, ServerConfig, grpc, server};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{IdempotencyConfig, IdempotencyLayer, Scope};
use buttress::retry::{RetryConfig, RetryLayer, by_clone};
use buttress::{ConfigError, Outcome};
use proptest::prelude::*;

use crate::common::SECOND;

#[test]
fn a_client_is_configured_from_a_file_with_human_durations() {
    let config: ClientConfig = toml::from_str(
        r#"
        attempt = "250ms"
        total = "none"
        idempotency_keys = ["POST https://api.example.com/v1/charges"]
        key_header = "paypal-request-id"
        deadline_header = "grpc-timeout"
        budget = "off"

        [retry]
        max_attempts = 2
        backoff = { base = "10ms", growth = { linear = { step = "5ms" } } }

        [breaker]
        open_for = "5s"
        consecutive_failures = "off"
        failure_rate = 1
        max_server_wait = "1m"
        "#,
    )
    .unwrap();
    let backoff = Backoff::linear(SECOND / 100, SECOND / 200);
    let breaker = BreakerConfig::default()
        .open_for(5 * SECOND)
        .consecutive_failures(None)
        .failure_rate(Some(1.0))
        .max_server_wait(Some(60 * SECOND));
    let expected = ClientConfig::default()
        .attempt(SECOND / 4)
        .total(Duration::MAX)
        .idempotency_keys(
            IdempotencyKeys::honored_by(["POST https://api.example.com/v1/charges"]).unwrap(),
        )
        .key_header("paypal-request-id")
        .deadline_header("grpc-timeout".parse::<DeadlineHeader>().unwrap())
        .budget(None)
        .retry(RetryConfig::default().max_attempts(2).backoff(backoff))
        .breaker(breaker);
    assert_eq!(config, expected);
    assert_eq!(
        toml::from_str::<ClientConfig>("").unwrap(),
        ClientConfig::default()
    );
}

#[test]
fn a_server_is_configured_from_a_file_too() {
    let text = "timeout = \"none\"\nbody_idle = \"5s\"\ndeadline = \"off\"";
    let config: ServerConfig = toml::from_str(text).unwrap();
    let expected = ServerConfig::default()
        .timeout(Duration::MAX)
        .body_idle(5 * SECOND)
        .deadline(None);
    assert_eq!(config, expected);
    for config in [config, ServerConfig::default()] {
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ServerConfig>(&text).unwrap(), config);
    }
}

#[test]
fn optional_settings_are_switched_off_by_off_false_or_null() {
    for off in [r#""off""#, "false", "null"] {
        let text = format!(r#"{{"retry": {off}, "breaker": {{"consecutive_failures": {off}}}}}"#);
        let config: ClientConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(config.retry, None, "{off}");
        assert_eq!(config.breaker.unwrap().consecutive_failures, None, "{off}");
    }
}

#[test]
fn an_error_names_the_field() {
    for (text, expected) in [
        ("atempt = \"1s\"", "unknown field `atempt`"),
        ("[breaker]\nopen = \"1s\"", "unknown field `open`"),
        ("[retry.backoff]\nbsae = \"1s\"", "unknown field `bsae`"),
        (
            "[budget]\nrule = { in_flight = { ratio = 0.1, flor = 1 } }",
            "flor, available keys: ratio, floor",
        ),
        ("breaker = \"of\"", "string \"of\""),
        ("breaker = true", "boolean `true`"),
        ("attempt = \"forever\"", "or \"none\""),
        ("attempt = 3", "invalid type: integer"),
        ("idempotency_keys = [\"GET /\"]", "`route`"),
        ("idempotency_keys = \"honoured\"", "\"honored\""),
        ("deadline_header = \"no name\"", "a header name"),
        ("retry = { max_attempts = -1 }", "-1"),
    ] {
        let error = toml::from_str::<ClientConfig>(text)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0_u64..10_000_000_000_000).prop_map(Duration::from_nanos),
        1 => (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, ns)| Duration::new(s, ns)),
        1 => Just(Duration::MAX),
        1 => Just(Duration::ZERO),
    ]
}

/// Numbers that text holds exactly.
fn number() -> impl Strategy<Value = f64> {
    (0..100_u32).prop_map(|eighths| f64::from(eighths) / 8.0)
}

fn maybe<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(of)
}

fn retry() -> impl Strategy<Value = RetryConfig> {
    let growth = prop_oneof![
        Just(Backoff::constant(Duration::ZERO)),
        time().prop_map(|step| Backoff::linear(Duration::ZERO, step)),
        number().prop_map(|factor| Backoff::exponential(Duration::ZERO, factor)),
    ];
    let jitter = prop_oneof![
        Just(Jitter::None),
        Just(Jitter::Full),
        Just(Jitter::Equal),
        Just(Jitter::Decorrelated),
    ];
    let backoff = (growth, time(), time(), jitter)
        .prop_map(|(growth, base, cap, jitter)| growth.base(base).cap(cap).jitter(jitter));
    (
        any::<u32>(),
        backoff,
        time(),
        time(),
        maybe(time()),
        any::<bool>(),
    )
        .prop_map(|(attempts, backoff, base, max_wait, rejections, below)| {
            let config = RetryConfig::new().max_attempts(attempts).backoff(backoff);
            let config = config.overloaded_base(base).max_retry_after(max_wait);
            config.retry_rejections(rejections).retry_spent_below(below)
        })
}

fn budget() -> impl Strategy<Value = BudgetConfig> {
    let rule = prop_oneof![
        Just(Rule::Bucket),
        Just(Rule::Throttle),
        (number(), any::<u32>()).prop_map(|(ratio, floor)| Rule::InFlight { ratio, floor })
    ];
    (rule, number(), any::<[u32; 4]>(), time(), maybe(number())).prop_map(
        |(rule, ratio, [cap, initial, reserve, cost], ttl, floor)| {
            let config = BudgetConfig::new().rule(rule).ratio(ratio).cap(cap);
            let config = config.initial(initial).reserve(reserve).ttl(ttl);
            config.floor(floor).cost(cost)
        },
    )
}

fn breaker() -> impl Strategy<Value = BreakerConfig> {
    let window = prop_oneof![
        time().prop_map(Window::Time),
        any::<u32>().prop_map(Window::Calls)
    ];
    let abandoned = prop_oneof![
        Just(Abandoned::Detect),
        Just(Abandoned::Ignore),
        Just(Abandoned::Failure)
    ];
    let rules = (
        maybe(any::<u32>()),
        maybe(number()),
        maybe(number()),
        window,
        abandoned,
    );
    let rest = (
        time(),
        maybe(time()),
        any::<u32>(),
        maybe(any::<u32>()),
        any::<bool>(),
    );
    (rules, rest).prop_map(
        |((run, failed, slow, window, abandoned), (open, wait, probes, to_close, dry))| {
            let config = BreakerConfig::default()
                .consecutive_failures(run)
                .failure_rate(failed);
            let config = config.slow_rate(slow).window(window).abandoned(abandoned);
            let config = config.open_for(open).max_server_wait(wait).probes(probes);
            config.probes_to_close(to_close).dry_run(dry)
        },
    )
}

fn keys() -> impl Strategy<Value = IdempotencyKeys> {
    let route = "(POST |PATCH )?(https://[a-z]{1,9}(:8443)?)?/[a-z/]{0,9}";
    prop_oneof![
        Just(IdempotencyKeys::Unknown),
        Just(IdempotencyKeys::Honored),
        proptest::collection::vec(route, 0..4)
            .prop_map(
                |routes| IdempotencyKeys::honored_by(routes.iter().map(String::as_str)).unwrap()
            ),
    ]
}

fn client() -> impl Strategy<Value = ClientConfig> {
    let parts = (maybe(retry()), maybe(budget()), maybe(breaker()));
    let header = maybe("[a-z][a-z-]{0,20}");
    let rest = (any::<[bool; 5]>(), keys(), header, 1..99_usize, time());
    ([time(), time(), time()], parts, rest).prop_map(|(limits, parts, rest)| {
        let ([attempt, total, idle], (retry, budget, breaker)) = (limits, parts);
        let (flags, keys, header, max_keys, idle_keys) = rest;
        let authorities = KeyedConfig::default().max_keys(max_keys).idle(idle_keys);
        let config = ClientConfig::default().attempt(attempt).total(total);
        let config = config.body_idle(idle).authorities(authorities);
        let config = config
            .retry(retry)
            .budget(budget)
            .breaker(breaker)
            .idempotency_keys(keys);
        let config = config
            .unquoted_keys(flags[0])
            .proxy(flags[1])
            .observe(flags[2])
            .count_429(flags[3]);
        match header {
            Some(name) if flags[4] => config.key_header(name),
            Some(name) => {
                config.deadline_header(format!("x-{name}").parse::<DeadlineHeader>().unwrap())
            }
            None => config,
        }
    })
}

proptest! {
    #[test]
    fn settings_survive_a_round_trip(config in client()) {
        let text = toml::to_string(&config).unwrap();
        prop_assert_eq!(toml::from_str::<ClientConfig>(&text).unwrap(), config.clone(), "{}", text);
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<ClientConfig>(&text).unwrap(), config, "{}", text);
    }
}

fn by_itself() -> impl KeyBy<String, Key = String> {
    by(String::clone)
}

/// The error of each named handle and stack for this name.
fn named(name: &str) -> Vec<Option<ConfigError>> {
    let keys = KeyedConfig::default();
    let records = MemoryStore::new();
    let guard = IdempotencyConfig::default();
    vec![
        Breaker::new(name, BreakerConfig::default()).err(),
        Breaker::keyed::<String, _>(name, BreakerConfig::default(), keys, by_itself()).err(),
        RetryBudget::new(name, BudgetConfig::default()).err(),
        RetryBudget::keyed::<String, _>(name, BudgetConfig::default(), keys, by_itself()).err(),
        RetryLayer::new(name, RetryConfig::new(), by_clone()).err(),
        buttress::http::client(name, ClientConfig::default()).err(),
        grpc(name, ClientConfig::default()).err(),
        server(name, ServerConfig::default()).err(),
        ExtractDeadlineLayer::new(name, ExtractDeadlineConfig::default()).err(),
        IdempotencyLayer::new(name, records, Scope::Global, guard).err(),
    ]
}

#[tokio::test]
async fn no_handle_and_no_stack_takes_an_empty_name_or_one_with_control_characters() {
    for name in ["", "pay\nments", "pay\u{1b}[31mments", "\0"] {
        for error in named(name) {
            let error = error.expect("refused");
            assert_eq!((&*error.field, error.value), ("name", format!("{name:?}")));
        }
    }
    for name in ["payments", "https://api.example.com:443", "\u{1f4b6}"] {
        assert!(named(name).iter().all(Option::is_none));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_with_control_characters_has_a_policy_of_its_own() {
    let config = BreakerConfig::default()
        .consecutive_failures(Some(1))
        .consecutive_min_span(Duration::ZERO);
    let breakers =
        Breaker::keyed::<String, _>("rude", config, KeyedConfig::default(), by_itself()).unwrap();
    let [rude, empty] = ["a\nb", ""].map(|key| breakers.get(&key.to_owned(), &Now::unread()));
    rude.try_acquire().unwrap().settle(Outcome::TRANSIENT);
    assert_eq!(rude.state(), BreakerState::Open);
    assert_eq!(empty.state(), BreakerState::Closed);
    assert_ne!(rude.name(), empty.name());
}
