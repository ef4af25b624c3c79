//! Waiting for conditions, never for time alone.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How long anything may take that needs the guest to do something. Inside an emulated KVM host everything is ten times
/// slower than on a machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long anything may take that the host does alone: to notice a death, to remove a process. It takes milliseconds; this
/// only keeps a test from waiting for the guest instead.
pub const SOON: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(10);

/// How many times slower this machine is than the one that deadlines were chosen on: `LEAPBOX_TEST_SLOWNESS`, as in the
/// end-to-end tests.
static SLOWNESS: LazyLock<f64> = LazyLock::new(|| match std::env::var("LEAPBOX_TEST_SLOWNESS") {
    Ok(text) => text.parse().expect("LEAPBOX_TEST_SLOWNESS is a number"),
    Err(_) => 1.0,
});

/// Asks again and again until `condition` holds.
pub async fn eventually<T: Answer>(what: &str, deadline: Duration, condition: impl AsyncFn() -> T) {
    let deadline = deadline.mul_f64(*SLOWNESS);
    let started = Instant::now();
    while let Err(last) = condition().await.answer() {
        assert!(started.elapsed() < deadline, "after {deadline:?} still not: {what}; {last}");
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether a condition holds.
pub trait Answer {
    /// Or else what was seen instead.
    fn answer(self) -> Result<(), String>;
}

impl Answer for bool {
    fn answer(self) -> Result<(), String> {
        if self { Ok(()) } else { Err(String::new()) }
    }
}

impl Answer for Result<(), String> {
    fn answer(self) -> Result<(), String> {
        self
    }
}

/// The future's result, which must come in time.
pub async fn within<T>(deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let deadline = deadline.mul_f64(*SLOWNESS);
    match tokio::time::timeout(deadline, future).await {
        Ok(result) => result,
        Err(_) => panic!("after {deadline:?} still waiting for: {what}"),
    }
}
