//! The rules of a record as Lua scripts, which Redis runs in one step, and their results.

use std::sync::LazyLock;
use std::time::Duration;

use ::redis::{Cmd, RedisError, Value, cmd};
use bytes::Bytes;

use buttress::idempotency::store::{Begun, Ended, Resolved, StoreError};

/// Fifty years in microseconds. A record's time is the sum of three such numbers at most, which a double holds exactly.
const LONGEST: u128 = 50 * 365 * 24 * 3_600 * 1_000_000;

macro_rules! scripts {
    ($($name:ident: $flags:expr, $file:literal;)+) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| script($flags, include_str!($file)));)+
    };
}

scripts! {
    BEGIN: "", "lua/begin.lua";
    RENEW: ALLOW_OOM, "lua/renew.lua";
    COMPLETE: "", "lua/complete.lua";
    COMPLETE_SMALL: ALLOW_OOM, "lua/complete.lua";
    ABANDON: ALLOW_OOM, "lua/abandon.lua";
    FIND: NO_WRITES, "lua/find.lua";
    RESOLVE: "", "lua/resolve.lua";
    RESOLVE_SMALL: ALLOW_OOM, "lua/resolve.lua";
}

/// Lets a script run even if the memory is full: it only reads.
const NO_WRITES: &str = "#!lua flags=no-writes\n";
/// Lets a script write even if the memory is full: it needs little or no more of it.
const ALLOW_OOM: &str = "#!lua flags=allow-oom\n";

/// A script and its hash, by which Redis knows it once it has run.
pub(super) struct Script {
    code: String,
    hash: String,
}

fn script(flags: &str, rule: &str) -> Script {
    let code = format!("{flags}{}{rule}", include_str!("lua/record.lua"));
    let hash = ::redis::Script::new(&code).get_hash().to_owned();
    Script { code, hash }
}

impl Script {
    /// The command that runs the script by its hash.
    pub(super) fn by_hash(&self, key: &str, arguments: &[&[u8]]) -> Cmd {
        run("EVALSHA", &self.hash, key, arguments)
    }

    /// The command that runs the script on a server that does not know its hash, and loads it there.
    pub(super) fn by_code(&self, key: &str, arguments: &[&[u8]]) -> Cmd {
        run("EVAL", &self.code, key, arguments)
    }
}

fn run(command: &str, script: &str, key: &str, arguments: &[&[u8]]) -> Cmd {
    let mut command = cmd(command);
    command.arg(script).arg(1).arg(key);
    for argument in arguments {
        command.arg(*argument);
    }
    command
}

/// Whether the server does not know the hash of a script: it was restarted, or has become the primary.
pub(super) fn is_unknown(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

/// A duration in microseconds, rounded up.
pub(super) fn micros(time: Duration) -> String {
    time.as_nanos().div_ceil(1_000).min(LONGEST).to_string()
}

/// The result of a script: a word and its value.
pub(super) struct Reply {
    word: Vec<u8>,
    more: Option<Value>,
}

impl Reply {
    pub(super) fn read(value: Value) -> Result<Self, StoreError> {
        let Value::Array(parts) = value else {
            return Err(strange());
        };
        let mut parts = parts.into_iter();
        let Some(Value::BulkString(word)) = parts.next() else {
            return Err(strange());
        };
        let more = parts.next();
        if let (b"unreadable", Some(Value::BulkString(why))) = (&*word, &more) {
            return Err(StoreError::Unreadable(
                String::from_utf8_lossy(why).into_owned(),
            ));
        }
        Ok(Self { word, more })
    }

    pub(super) fn begun(self) -> Result<Begun, StoreError> {
        Ok(match (&*self.word, self.more) {
            (b"started", Some(Value::Int(run))) => Begun::Started {
                run: u32::try_from(run).map_err(|_| strange())?,
            },
            (b"running", None) => Begun::Running,
            (b"done", Some(Value::BulkString(answer))) => Begun::Done(Bytes::from(answer)),
            (b"mismatch", None) => Begun::Mismatch,
            _ => return Err(strange()),
        })
    }

    /// The fields of an entry.
    pub(super) fn found(self) -> Result<Option<Vec<Value>>, StoreError> {
        match (&*self.word, self.more) {
            (b"found", Some(Value::Array(fields))) => Ok(Some(fields)),
            (b"missing", None) => Ok(None),
            _ => Err(strange()),
        }
    }

    pub(super) fn resolved(self) -> Result<Resolved, StoreError> {
        Ok(match (&*self.word, self.more) {
            (b"resolved", None) => Resolved::Resolved,
            (b"changed", None) => Resolved::Changed,
            (b"running", None) => Resolved::Running,
            (b"missing", None) => Resolved::Missing,
            _ => return Err(strange()),
        })
    }

    pub(super) fn ended(self) -> Result<Ended, StoreError> {
        Ok(match (&*self.word, self.more) {
            (b"taken", None) => Ended::Taken,
            (b"already", Some(Value::BulkString(answer))) => Ended::Already(Bytes::from(answer)),
            (b"lost", None) => Ended::Lost,
            _ => return Err(strange()),
        })
    }
}

pub(super) fn strange() -> StoreError {
    StoreError::Unreadable("the server did not run the script of this store".to_owned())
}

/// Maps an error of the client or the server.
pub(super) fn failed(error: RedisError) -> StoreError {
    match error.code() {
        Some("OOM") => StoreError::Full(error.to_string()),
        Some("WRONGTYPE") => StoreError::Unreadable("the key does not hold a hash".to_owned()),
        _ => StoreError::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_and_end_after_fifty_years() {
        assert_eq!(micros(Duration::ZERO), "0");
        assert_eq!(micros(Duration::from_nanos(1)), "1");
        assert_eq!(micros(Duration::from_nanos(1_001)), "2");
        assert_eq!(micros(Duration::from_secs(1)), "1000000");
        assert_eq!(micros(Duration::MAX), LONGEST.to_string());
        // The year 2100, and two such times: below 2^53, so that Lua's doubles are exact.
        const { assert!(4_102_444_800 * 1_000_000 + 2 * LONGEST < 1 << 53) };
    }

    #[test]
    fn an_unknown_result_is_an_error() {
        let word = |word: &str| Value::BulkString(word.as_bytes().to_vec());
        for value in [
            Value::Nil,
            Value::Okay,
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Int(1)]),
        ] {
            assert!(Reply::read(value).is_err());
        }
        for parts in [
            vec![word("hello")],
            vec![word("started")],
            vec![word("started"), Value::Int(-1)],
            vec![word("done")],
            vec![word("already"), Value::Int(1)],
        ] {
            let read = || Reply::read(Value::Array(parts.clone())).expect("a word");
            assert!(matches!(read().begun(), Err(StoreError::Unreadable(_))));
            assert!(matches!(read().ended(), Err(StoreError::Unreadable(_))));
        }
    }
}
