//! Operations without HTTP: `IdempotencyLayer::run`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::idempotency::lookup::{OperationState, RecordOf};
use buttress::idempotency::store::MemoryStore;
use buttress::idempotency::{AfterCrash, IdempotencyConfig, IdempotencyLayer, Operation, Scope};
use buttress::{Error, KeyProblem, Reason};
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::shop::settle;

type Failure = Error<&'static str>;

fn layer(config: IdempotencyConfig) -> IdempotencyLayer {
    IdempotencyLayer::new("consumer", MemoryStore::new(), Scope::Global, config).unwrap()
}

async fn applied(operation: Operation) -> Result<Bytes, Failure> {
    Ok(operation.run().to_string().into())
}

/// The result of a call with this key.
async fn ran(layer: &IdempotencyLayer, key: &str) -> Result<Bytes, KeyProblem> {
    let result = layer.run("orders", key, "10 EUR", applied).await;
    result.map_err(problem)
}

fn problem(error: Failure) -> KeyProblem {
    match error {
        Error::Rejected(rejected) => match rejected.reason {
            Reason::Key(problem) => problem,
            reason => panic!("{reason:?}"),
        },
        Error::Inner(error) => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_executed_once_for_its_scope_and_key() {
    let layer = layer(IdempotencyConfig::default());
    // The number of the call that executed the operation of this scope and key.
    for (call, (scope, key, executed_by)) in [
        ("orders", "1", "0"),
        ("orders", "1", "0"),
        ("invoices", "1", "2"),
        ("orders", "2", "3"),
    ]
    .into_iter()
    .enumerate()
    {
        let apply = async move |_: Operation| Ok::<Bytes, Failure>(call.to_string().into());
        let result = layer.run(scope, key, "10 EUR", apply).await.unwrap();
        assert_eq!(result, executed_by);
    }
    let reused = layer.run("orders", "1", "11 EUR", applied).await;
    assert_eq!(problem(reused.unwrap_err()), KeyProblem::Reused);
    assert_eq!(ran(&layer, "").await, Err(KeyProblem::Missing));
    let found = layer
        .find(&layer.record(&RecordOf::run("orders", "1")))
        .await;
    assert_eq!(found.unwrap().unwrap().state(), OperationState::Stored);
    assert_eq!(layer.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_delivery_while_the_first_is_executed_is_rejected() {
    let layer = layer(IdempotencyConfig::default().max_running(2));
    let gate = Arc::new(Semaphore::new(0));
    let slow = || {
        let (layer, gate) = (layer.clone(), Arc::clone(&gate));
        async move {
            let wait = async move |_: Operation| {
                let _ = gate.acquire().await.unwrap();
                Ok::<Bytes, Failure>("done".into())
            };
            layer.run("orders", "1", "10 EUR", wait).await
        }
    };
    let first = tokio::spawn(slow());
    settle().await;
    assert_eq!(problem(slow().await.unwrap_err()), KeyProblem::InProgress);
    // The operation continues after its caller has left.
    first.abort();
    let _ = first.await;
    settle().await;
    assert_eq!(ran(&layer, "1").await, Err(KeyProblem::InProgress));
    gate.add_permits(1);
    layer.idle().await;
    assert_eq!(ran(&layer, "1").await, Ok("done".into()));
}

/// How a handler ends that does not return a result.
#[derive(Clone, Copy, Debug)]
enum End {
    Fails,
    DidNotHappen,
    Happened,
    Panics,
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_handled_by_the_handlers_report_or_the_settings() {
    use AfterCrash::{Refuse, RunAgain};
    for (end, after_crash, next) in [
        (End::Fails, RunAgain, Ok("2".into())),
        (End::Fails, Refuse, Err(KeyProblem::Unknown)),
        (End::Panics, RunAgain, Ok("2".into())),
        (End::Panics, Refuse, Err(KeyProblem::Unknown)),
        (End::DidNotHappen, RunAgain, Ok("1".into())),
        (End::DidNotHappen, Refuse, Ok("1".into())),
        (End::Happened, RunAgain, Err(KeyProblem::Failed)),
        (End::Happened, Refuse, Err(KeyProblem::Failed)),
    ] {
        let layer = layer(IdempotencyConfig::default().after_crash(after_crash));
        let fails = async move |operation: Operation| {
            match end {
                End::Fails => {}
                End::DidNotHappen => operation.did_not_happen(),
                End::Happened => operation.happened(),
                End::Panics => panic!("scripted panic"),
            }
            Err::<Bytes, _>(Failure::Inner("down"))
        };
        let first = layer.run("orders", "1", "10 EUR", fails).await;
        match end {
            End::Panics => assert_eq!(problem(first.unwrap_err()), KeyProblem::Failed),
            _ => assert!(matches!(first, Err(Error::Inner("down")))),
        }
        assert_eq!(ran(&layer, "1").await, next, "{end:?} {after_crash:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_never_ends_is_unknown_and_a_large_result_is_not_stored() {
    let config = IdempotencyConfig::default()
        .max_run(Duration::from_secs(5))
        .max_response_body(3);
    let layer = layer(config);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let hangs = async move |_: Operation| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Result<Bytes, Failure>>().await
    };
    let hung = layer.run("orders", "1", "10 EUR", hangs).await;
    assert_eq!(problem(hung.unwrap_err()), KeyProblem::Unknown);
    assert_eq!(ran(&layer, "1").await, Err(KeyProblem::Unknown));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let large = async |_: Operation| Ok::<Bytes, Failure>("large".into());
    let first = layer.run("orders", "2", "10 EUR", large).await.unwrap();
    assert_eq!(first, "large");
    assert_eq!(ran(&layer, "2").await, Err(KeyProblem::NotStored));
}
