//! Random histories of requests, callers that leave and handlers that end, compared with a model of the rules.

use std::time::Duration;

use buttress::idempotency::{AfterCrash, IdempotencyConfig, StoragePolicy};
use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::shop::{Called, Flow, Seen, Shop, payment, reply, settle, with_header};

#[derive(Clone, Debug)]
enum Op {
    /// A request with this key and this body.
    Send(usize, usize),
    /// The caller of a running request leaves.
    Leave(usize),
    /// The handler of this key, if it runs, ends like this.
    End(usize, End),
    /// This number of seconds passes.
    Pass(u64),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Answers(u16),
    Panics,
    Fails,
    DidNotHappen,
    /// The handler has acted, and this is its response. That it did not happen as well is ignored.
    Happened(u16),
}

const BODIES: [&str; 2] = ["10 EUR", "11 EUR"];
const KEYS: usize = 2;
const TTL: u64 = 1000;
const MAX_RUN: u64 = 300;
/// The default.
const LEASE: u64 = 90;

fn any_op() -> impl Strategy<Value = Op> {
    let end = prop_oneof![
        6 => proptest::sample::select(vec![200, 201, 404, 408, 409, 429, 500, 503]).prop_map(End::Answers),
        1 => Just(End::Panics),
        1 => Just(End::Fails),
        1 => Just(End::DidNotHappen),
        1 => proptest::sample::select(vec![201, 408, 429, 500]).prop_map(End::Happened),
    ];
    prop_oneof![
        6 => (0..KEYS, prop_oneof![5 => Just(0_usize), 1 => Just(1)]).prop_map(|(k, b)| Op::Send(k, b)),
        1 => (0..5_usize).prop_map(Op::Leave),
        3 => (0..KEYS, end).prop_map(|(k, end)| Op::End(k, end)),
        1 => prop_oneof![0..80_u64, Just(MAX_RUN), Just(TTL)].prop_map(Op::Pass),
    ]
}

/// The state of a key.
#[derive(Clone, Debug, Default)]
enum Known {
    #[default]
    Nothing,
    Running {
        body: usize,
        since: u64,
        run: u32,
    },
    /// Nothing is stored, and whether this run has acted is unknown.
    NotStored {
        body: usize,
        gone_at: u64,
        run: u32,
    },
    /// Status and text; a problem has no text.
    Done {
        body: usize,
        at: u64,
        seen: (u16, Option<String>),
    },
}

#[derive(Default)]
struct Model {
    after_crash: AfterCrash,
    storage: StoragePolicy,
    now: u64,
    keys: [Known; KEYS],
}

impl Model {
    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        for known in &mut self.keys {
            match *known {
                Known::Running { body, since, .. } if self.now >= since + MAX_RUN => {
                    let seen = (409, None);
                    let at = since + MAX_RUN;
                    *known = Known::Done { body, at, seen };
                }
                _ => {}
            }
            let is_gone = match *known {
                Known::Done { at, .. } => self.now >= at + TTL,
                Known::NotStored { gone_at, .. } => self.now >= gone_at,
                Known::Nothing | Known::Running { .. } => false,
            };
            if is_gone {
                *known = Known::Nothing;
            }
        }
    }

    /// The response to a request, or the number of its run.
    fn send(&mut self, key: usize, wanted: usize) -> Result<u32, (u16, bool, Option<String>)> {
        let (now, known) = (self.now, &mut self.keys[key]);
        let runs = |run| Known::Running {
            body: wanted,
            since: now,
            run,
        };
        match known {
            Known::Nothing => {
                *known = runs(1);
                Ok(1)
            }
            Known::Running { body, .. }
            | Known::Done { body, .. }
            | Known::NotStored { body, .. }
                if *body != wanted =>
            {
                Err((422, false, None))
            }
            Known::NotStored { run, .. } if self.after_crash == AfterCrash::RunAgain => {
                let run = *run + 1;
                *known = runs(run);
                Ok(run)
            }
            Known::NotStored { .. } => {
                *known = Known::Done {
                    body: wanted,
                    at: now,
                    seen: (409, None),
                };
                Err((409, false, None))
            }
            Known::Running { .. } => Err((409, false, None)),
            Known::Done { seen, .. } => Err((seen.0, seen.1.is_some(), seen.1.clone())),
        }
    }

    fn end(&mut self, key: usize, end: End, text: &str) {
        let Known::Running { body, run, since } = self.keys[key] else {
            panic!("it runs");
        };
        let at = self.now;
        let deletes = self.storage == StoragePolicy::DeleteOnError;
        let gone_at = at + TTL;
        let not_stored = Known::NotStored { body, gone_at, run };
        self.keys[key] = match end {
            // An earlier run may have acted, so the record remains until the expiry that the last renewal set.
            End::DidNotHappen if run > 1 => {
                let renewed = since + (at - since) / (LEASE / 3) * (LEASE / 3);
                let gone_at = renewed + LEASE + TTL;
                Known::NotStored { body, gone_at, run }
            }
            End::DidNotHappen => Known::Nothing,
            End::Answers(429) => not_stored,
            End::Answers(500..) | End::Panics | End::Fails if deletes => not_stored,
            End::Answers(408) => {
                let seen = (409, None);
                Known::Done { body, at, seen }
            }
            End::Answers(status) | End::Happened(status) => {
                let seen = (status, Some(text.to_owned()));
                Known::Done { body, at, seen }
            }
            End::Panics | End::Fails => {
                let seen = (500, None);
                Known::Done { body, at, seen }
            }
        };
    }
}

fn request(key: usize, body: usize) -> http::Request<Flow> {
    let key = format!("\"key-of-operation-{key}\"");
    with_header(payment(BODIES[body]), "idempotency-key", key)
}

async fn check(config: IdempotencyConfig, ops: Vec<Op>) {
    let mut model = Model {
        after_crash: config.after_crash,
        storage: config.storage,
        ..Model::default()
    };
    let mut shop = Shop::new(config);
    let mut running: [Option<(Called, Option<JoinHandle<Seen>>)>; KEYS] = [None, None];
    for (number, op) in ops.into_iter().enumerate() {
        match op {
            Op::Send(key, body) => {
                let sent = shop.send(request(key, body));
                match model.send(key, body) {
                    Ok(run) => {
                        let called = shop.called().await;
                        assert_eq!(called.body, BODIES[body]);
                        assert_eq!(called.operation().run(), run);
                        running[key] = Some((called, Some(sent)));
                    }
                    Err((status, replayed, text)) => {
                        let seen = sent.await.unwrap();
                        assert_eq!((seen.status, seen.replayed()), (status, replayed));
                        if let Some(text) = text {
                            assert_eq!(seen.text(), text);
                        }
                    }
                }
            }
            Op::Leave(which) => {
                let mut callers = running.iter_mut().flatten();
                if let Some((_, caller)) = callers.nth(which % KEYS) {
                    if let Some(caller) = caller.take() {
                        caller.abort();
                        let _ = caller.await;
                    }
                }
            }
            Op::End(key, end) => {
                let Some((called, caller)) = running[key].take() else {
                    continue;
                };
                let text: &'static str = format!("answer {number}").leak();
                model.end(key, end, text);
                let first = match end {
                    End::Answers(status) => {
                        called.responds(reply(status, text));
                        status
                    }
                    End::Happened(status) => {
                        called.operation().happened();
                        called.operation().did_not_happen();
                        called.responds(reply(status, text));
                        status
                    }
                    End::DidNotHappen => {
                        called.operation().did_not_happen();
                        called.responds(reply(503, text));
                        503
                    }
                    End::Panics => {
                        called.panics();
                        500
                    }
                    End::Fails => {
                        called.fails("failed");
                        599
                    }
                };
                if let Some(caller) = caller {
                    let seen = caller.await.unwrap();
                    assert_eq!((seen.status, seen.replayed()), (first, false));
                }
                settle().await;
            }
            Op::Pass(seconds) => {
                sleep(Duration::from_secs(seconds)).await;
                settle().await;
                model.pass(seconds);
                for (key, slot) in running.iter_mut().enumerate() {
                    if !matches!(model.keys[key], Known::Running { .. }) {
                        if let Some((mut called, caller)) = slot.take() {
                            called.dropped().await;
                            if let Some(caller) = caller {
                                assert_eq!(caller.await.unwrap().problem(), "Unknown");
                            }
                        }
                    }
                }
            }
        }
        shop.assert_not_called().await;
        let under_way = running.iter().flatten().count();
        assert_eq!(shop.layer.running(), under_way, "after step {number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn random_histories_agree_with_the_model(
        refuses in any::<bool>(),
        deletes in any::<bool>(),
        takes in any::<bool>(),
        ops in proptest::collection::vec(any_op(), 1..40),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build();
        let config = IdempotencyConfig::default()
            .ttl(Duration::from_secs(TTL))
            .max_run(Duration::from_secs(MAX_RUN))
            .storage(if deletes { StoragePolicy::DeleteOnError } else { StoragePolicy::Definitive })
            .after_crash(if refuses { AfterCrash::Refuse } else { AfterCrash::RunAgain })
            // All handlers of this test take their operation, so this changes nothing.
            .handlers_take_operation(takes);
        runtime.unwrap().block_on(check(config, ops));
    }
}
