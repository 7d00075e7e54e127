//! A retry budget through its public handle.

use std::time::Duration;

use buttress::budget::{BudgetConfig, RetryBudget};
use tokio::time::advance;

fn budget(config: BudgetConfig) -> RetryBudget {
    RetryBudget::new("test", config).unwrap()
}

/// How many retries are granted and started in a row.
fn granted(budget: &RetryBudget) -> u32 {
    let mut granted = 0;
    while let Some(mut paid) = budget.try_withdraw() {
        paid.started();
        granted += 1;
    }
    granted
}

#[tokio::test(start_paused = true)]
async fn after_days_of_silence_it_holds_no_more_than_its_reserve_and_its_floor() {
    let budget = budget(BudgetConfig::default().floor(Some(1.0)));
    advance(Duration::from_secs(7 * 86_400)).await;
    assert_eq!(granted(&budget), 2 + 10);
}

#[tokio::test(start_paused = true)]
async fn the_balance_is_what_a_withdrawal_would_find_now() {
    use std::sync::{Arc, Mutex};

    let check = |budget: &RetryBudget, tokens: f64| {
        let reported = Arc::new(Mutex::new(f64::NAN));
        let sink = Arc::clone(&reported);
        budget.observe_with(move |event: &buttress::event::Event<'_>| {
            if let buttress::event::Event::Budget { balance, .. } = event {
                *sink.lock().unwrap() = *balance;
            }
        });
        buttress::telemetry::refresh();
        let reported = *reported.lock().unwrap();
        assert!((reported - tokens).abs() < 1e-6, "{reported} reported");
        assert!(
            (budget.balance() - tokens).abs() < 1e-6,
            "{}",
            budget.balance()
        );
        // In the event of a withdrawal, too.
        let mut paid = budget.try_withdraw().expect("a token");
        paid.started();
        assert!((budget.balance() - (tokens - 1.0)).abs() < 1e-6);
    };
    let second = Duration::from_secs(1);
    let floor = budget(
        BudgetConfig::default()
            .initial(0)
            .reserve(0)
            .floor(Some(1.0)),
    );
    check(&floor, 10.0);
    advance(3 * second).await;
    check(&floor, 10.0);
    advance(20 * second).await;
    check(&floor, 10.0);

    let quiet = budget(BudgetConfig::default());
    (0..1000).for_each(|_| quiet.deposit());
    check(&quiet, 10.0);
    quiet.deposit();
    advance(10 * second).await;
    check(&quiet, 9.2);
    (0..1000).for_each(|_| quiet.deposit());
    advance(11 * second).await;
    check(&quiet, 2.0);
}

#[test]
fn an_invalid_setting_is_named() {
    let error = RetryBudget::new("x", BudgetConfig::new().ratio(f64::NAN)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "retry budget `x`: `ratio` is NaN, but it must be from 0.001 to 10"
    );
}
