//! Records in a file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use buttress::idempotency::store::{
    Begun, Claim, Ended, FileStore, Fingerprint, Store, StoreError,
};
use buttress::testing::{check_lookup, check_store};
use bytes::Bytes;

use super::{LEASE, TTL, claim, fill, is_full, key};
use crate::common::poll;

/// A folder that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("buttress-file-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("records.redb")
    }

    fn open(&self) -> FileStore {
        FileStore::open(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Claims 256 keys concurrently.
async fn begin_all(store: &FileStore) -> Vec<Result<Begun, StoreError>> {
    let claims: Vec<_> = (0..=u8::MAX)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.begin(&key(number), &claim()).await })
        })
        .collect();
    let mut begun = Vec::new();
    for claim in claims {
        begun.push(claim.await.unwrap());
    }
    begun
}

fn message(path: &Path) -> String {
    FileStore::open(path).unwrap_err().to_string()
}

#[tokio::test]
async fn it_fulfills_the_contract() {
    let folder = Folder::new();
    let store = folder.open();
    check_store(&store).await;
    check_lookup(&store).await;
}

#[tokio::test]
async fn a_restart_replays_responses_and_runs_unfinished_operations_again() {
    let folder = Folder::new();
    let store = folder.open();
    let [done, running, given_up] = [claim(), claim(), claim()];
    store.begin(&key(1), &done).await.unwrap();
    store.begin(&key(2), &running).await.unwrap();
    store.begin(&key(3), &given_up).await.unwrap();
    let response = Bytes::from(vec![7; 1 << 20]);
    store
        .complete(&key(1), done.token, response.clone(), TTL)
        .await
        .unwrap();
    store.abandon(&key(3), given_up.token).await.unwrap();
    drop(store);
    let store = folder.open();
    assert_eq!(
        store.begin(&key(1), &claim()).await.unwrap(),
        Begun::Done(response.clone())
    );
    assert_eq!(
        store.begin(&key(2), &claim()).await.unwrap(),
        Begun::Started { run: 2 }
    );
    assert_eq!(
        store.begin(&key(3), &claim()).await.unwrap(),
        Begun::Started { run: 1 }
    );
    let other = Claim::new(Fingerprint([1; 32]), LEASE, TTL);
    assert_eq!(store.begin(&key(2), &other).await.unwrap(), Begun::Mismatch);
    let late = store
        .complete(&key(2), running.token, response, TTL)
        .await
        .unwrap();
    assert_eq!(late, Ended::Lost);
    // The leases of this session last.
    assert_eq!(
        store.begin(&key(2), &claim()).await.unwrap(),
        Begun::Running
    );
}

#[tokio::test]
async fn a_file_is_for_one_store_at_a_time() {
    let folder = Folder::new();
    let store = folder.open();
    let refused = message(&folder.file());
    assert!(
        refused.contains("records.redb` is already open"),
        "{refused}"
    );
    let copy = store.clone();
    drop(store);
    assert!(FileStore::open(folder.file()).is_err());
    drop(copy);
    folder.open();
}

#[test]
fn another_file_is_rejected_and_left_unchanged() {
    let folder = Folder::new();
    for (name, garbage) in [
        ("short", &b"not a database"[..]),
        ("zeros", &[0; 8192]),
        ("noise", &b"0123456789abcdef".repeat(4096)),
    ] {
        let path = folder.0.join(name);
        std::fs::write(&path, garbage).unwrap();
        let refused = message(&path);
        assert!(refused.contains(name), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), garbage, "{name}");
    }
    let refused = message(&folder.0);
    assert!(refused.contains("cannot be opened"), "{refused}");
    let refused = message(&folder.0.join("none/records.redb"));
    assert!(refused.contains("cannot be opened"), "{refused}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic() {
    let folder = Folder::new();
    let store = folder.open();
    for begun in begin_all(&store).await {
        begun.unwrap();
    }
    drop(store);
    let whole = std::fs::read(folder.file()).unwrap();
    for start in (4096..whole.len()).step_by(whole.len() / 16) {
        let mut damaged = whole.clone();
        let end = damaged.len().min(start + 4096);
        damaged[start..end].fill(0xa5);
        std::fs::write(folder.file(), damaged).unwrap();
        let Ok(store) = FileStore::open(folder.file()) else {
            continue;
        };
        for begun in begin_all(&store).await {
            // A damaged fingerprint is a mismatch. No damage makes an operation start in run 1.
            let is_safe = match &begun {
                Ok(begun) => matches!(begun, Begun::Started { run: 2 } | Begun::Mismatch),
                Err(_) => true,
            };
            assert!(is_safe, "{begun:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_rejects_new_keys_until_records_expire() {
    let folder = Folder::new();
    let store = FileStore::with_max_bytes(folder.file(), 2 * 512).unwrap();
    fill(&store).await;
    // The bound holds after a restart.
    drop(store);
    let store = FileStore::with_max_bytes(folder.file(), 2 * 512).unwrap();
    assert!(is_full(&store.begin(&key(3), &claim()).await));
    tokio::time::advance(LEASE + TTL).await;
    for number in 3..5 {
        let begun = store.begin(&key(number), &claim()).await.unwrap();
        assert_eq!(begun, Begun::Started { run: 1 });
    }
    assert!(is_full(&store.begin(&key(5), &claim()).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_survive_a_restart() {
    let folder = Folder::new();
    let store = folder.open();
    let tasks: Vec<_> = (0..=u8::MAX)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                let holder = claim();
                store.begin(&key(number), &holder).await.unwrap();
                let response = vec![number; usize::from(number)].into();
                let taken = store
                    .complete(&key(number), holder.token, response, TTL)
                    .await;
                assert_eq!(taken.unwrap(), Ended::Taken);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    drop(store);
    let store = folder.open();
    for number in 0..=u8::MAX {
        let response = vec![number; usize::from(number)].into();
        let begun = store.begin(&key(number), &claim()).await.unwrap();
        assert_eq!(begun, Begun::Done(response));
    }
}

#[tokio::test]
async fn dropping_the_store_finishes_its_calls() {
    let folder = Folder::new();
    let store = folder.open();
    for number in 0..100 {
        let (key, claim) = (key(number), claim());
        store.begin(&key, &claim).await.unwrap();
        let mut completion = store.complete(&key, claim.token, "yes".into(), claim.ttl);
        let _ = poll(completion.as_mut());
    }
    drop(store);
    let store = folder.open();
    for number in 0..100 {
        let begun = store.begin(&key(number), &claim()).await.unwrap();
        assert_eq!(begun, Begun::Done("yes".into()), "{number}");
    }
}

#[cfg(unix)]
#[test]
fn other_users_cannot_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    folder.open();
    let mode = std::fs::metadata(folder.file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn max_bytes_is_checked() {
    let folder = Folder::new();
    let error = FileStore::with_max_bytes(folder.file(), 511).unwrap_err();
    assert_eq!(
        error.to_string(),
        "idempotency store unavailable: store `file`: `max_bytes` is 511, but it must be at least 512, the size of one record"
    );
    assert!(!folder.file().exists());
}
