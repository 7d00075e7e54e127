//! Records in memory.

use buttress::idempotency::MemoryStore;
use buttress::testing::check_store;

#[tokio::test]
async fn it_keeps_the_contract() {
    check_store(&MemoryStore::new()).await;
}
