//! A service that is killed in its handler, the records it leaves, and two ways to repair them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use buttress::http::handle_rejections;
use buttress::idempotency::store::FileStore;
use buttress::idempotency::{AfterCrash, IdempotencyConfig, IdempotencyLayer, Scope};
use clap::Parser;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::args::Cli;
use crate::{Error, commands, stores};

/// How the service of the demo gets its settings: the file of its records, and whether its handlers hang.
const FILE: &str = "BUTTRESS_REPAIR_FILE";
const HANGS: &str = "BUTTRESS_REPAIR_HANGS";

/// What the service prints before its address, and when a handler has started.
const LISTENING: &str = "listening on ";
const AT_WORK: &str = "a handler is at work";

/// A service that does not start within this time is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest run of its handlers.
const MAX_RUN: Duration = Duration::from_secs(1);

/// This program, as the service.
pub(crate) fn own_program() -> Result<Command, Error> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve");
    Ok(command)
}

/// Pays, or hangs, until it is killed.
pub(crate) async fn serve() -> Result<(), Error> {
    let file = std::env::var_os(FILE).ok_or("this is the service of the demo")?;
    let hangs = std::env::var_os(HANGS).is_some();
    let config = IdempotencyConfig::default()
        .store_timeout(Duration::from_millis(500))
        .lease(Duration::from_millis(1500))
        .max_run(MAX_RUN)
        // A payment that may have happened is never repeated by itself.
        .after_crash(AfterCrash::Refuse);
    let store = FileStore::open(file)?;
    let layer = IdempotencyLayer::new("payments", store, Scope::Global, config)?;
    let pay = async move |amount: String| {
        if hangs {
            println!("{AT_WORK}");
            std::future::pending::<()>().await;
        }
        (StatusCode::CREATED, format!("paid {amount}"))
    };
    let app = Router::new()
        .route("/payments", post(pay))
        .layer(handle_rejections(layer));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{LISTENING}{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

/// A service in a process of its own.
struct Service {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Service {
    async fn start(program: &Program, file: &Path, hangs: bool) -> Result<Self, Error> {
        let mut command = program()?;
        command.env(FILE, file).env_remove(HANGS);
        if hangs {
            command.env(HANGS, "1");
        }
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let output = process.stdout.take().ok_or("the service has no output")?;
        let mut lines = BufReader::new(output).lines();
        let address = wait_for(&mut lines, LISTENING).await?;
        let url = format!("http://{address}/payments");
        Ok(Self {
            process,
            lines,
            url,
        })
    }

    /// Sends a payment with this key.
    async fn pay(&self, key: &str) -> Result<reqwest::Response, Error> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request = client.post(&self.url).body("10 EUR");
        let request = request.header("idempotency-key", format!("\"{key}\""));
        Ok(request.send().await?)
    }

    /// `kill -9` while a handler is at work on this key.
    async fn kill_in_handler(mut self, key: &str) -> Result<(), Error> {
        let killed = async {
            wait_for(&mut self.lines, AT_WORK).await?;
            Ok::<_, Error>(self.process.kill().await?)
        };
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request = client.post(&self.url).body("10 EUR");
        let request = request.header("idempotency-key", format!("\"{key}\""));
        let (answered, killed) = tokio::join!(request.send(), killed);
        killed?;
        match answered {
            Ok(response) => {
                Err(format!("the killed service responded {}", response.status()).into())
            }
            Err(_) => Ok(()),
        }
    }

    async fn stop(mut self) -> Result<(), Error> {
        Ok(self.process.kill().await?)
    }
}

/// The rest of the line that has this in it.
async fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> Result<String, Error> {
    let wait = async {
        while let Some(line) = lines.next_line().await? {
            if let Some((_, rest)) = line.split_once(text) {
                return Ok(rest.trim().to_owned());
            }
        }
        Err(Error::from("the service has ended"))
    };
    timeout(PATIENCE, wait).await?
}

type Program = dyn Fn() -> Result<Command, Error> + Sync;

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Runs the demo with this program as the service, and checks each step.
pub(crate) async fn run(program: &Program) -> Result<(), Error> {
    let name = format!(
        "buttress-repair-{}-{:08x}",
        std::process::id(),
        rand::random::<u32>()
    );
    let folder = Folder(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&folder.0)?;
    let file = folder.0.join("payments.redb");
    let (first, second) = ("the-first-payment", "the-second-payment");

    println!("1. The service is killed (kill -9) while it pays, twice.");
    for key in [first, second] {
        let service = Service::start(program, &file, true).await?;
        service.kill_in_handler(key).await?;
    }
    println!(
        "2. It is restarted. Nobody knows whether the payments happened, so it refuses to repeat them."
    );
    let service = Service::start(program, &file, false).await?;
    for key in [first, second] {
        expect(
            service.pay(key).await?,
            409,
            "KeyProblem.html#variant.Unknown",
        )
        .await?;
    }
    // A file is for one process at a time.
    service.stop().await?;
    // The killed handlers could have been at work for so long.
    sleep(MAX_RUN).await;

    println!("3. An operator lists the operations that need a decision.");
    let listed = repair(&file, "list --state unknown").await?;
    check(
        listed.ends_with("2 operations"),
        "the list shows both payments",
    )?;
    let [released, recorded] = [first, second].map(|key| format!("find /payments --key {key}"));
    let (released, recorded) = (id(&file, &released).await?, id(&file, &recorded).await?);

    println!(
        "4. The first payment did not happen, as the bank's records show. Its key is released."
    );
    let wrong = repair(&file, &format!("release {released} --run 1")).await;
    check(wrong.is_err(), "a repair that names another run is refused")?;
    repair(&file, &format!("release {released} --run 2")).await?;

    println!("5. The second one did happen. Its response is recorded.");
    let record =
        format!("record {recorded} --run 2 --status 201 --header x-by:support --body paid-10-EUR");
    repair(&file, &record).await?;

    println!(
        "6. The clients send their payments again: the first runs, the second gets the recorded response."
    );
    let service = Service::start(program, &file, false).await?;
    expect(service.pay(first).await?, 201, "paid 10 EUR").await?;
    let replayed = service.pay(second).await?;
    check(
        replayed.headers().contains_key("idempotent-replayed"),
        "the second payment does not run again",
    )?;
    expect(replayed, 201, "paid-10-EUR").await?;
    service.stop().await?;
    println!("Done: no payment was lost, and none was made twice.");
    Ok(())
}

/// Runs a command of this tool on the file of the service.
async fn repair(file: &Path, line: &str) -> Result<String, Error> {
    println!("   $ repair {line}");
    let words = ["repair", "--max-run", "1s"].into_iter();
    let mut cli = Cli::try_parse_from(words.chain(line.split_whitespace()))?;
    cli.layer.path = Some(file.to_owned());
    let layer = stores::open(&cli.layer).await?;
    let done = commands::run(&layer, cli.command).await;
    let text = match &done {
        Ok(text) => text.clone(),
        Err(error) => format!("error: {}", crate::chain(&**error)),
    };
    for line in text.lines() {
        println!("   {line}");
    }
    done
}

/// The id in the output of `find`.
async fn id(file: &Path, find: &str) -> Result<String, Error> {
    let found = repair(file, find).await?;
    let id = found.split_whitespace().nth(1);
    Ok(id.ok_or("no id was printed")?.to_owned())
}

async fn expect(response: reqwest::Response, status: u16, text: &str) -> Result<(), Error> {
    let seen = response.status().as_u16();
    let body = response.text().await?;
    println!("   {seen}: {body}");
    check(
        seen == status && body.contains(text),
        &format!("the service responds {status} with `{text}`"),
    )
}

fn check(holds: bool, what: &str) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(format!("check failed: {what}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test program as the service: it runs [`the_service_of_the_other_test`] and nothing else.
    fn test_program() -> Result<Command, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "--exact",
            "demo::tests::the_service_of_the_other_test",
            "--nocapture",
        ]);
        Ok(command)
    }

    #[tokio::test]
    async fn a_killed_service_leaves_records_that_can_be_released_and_recorded() {
        run(&test_program).await.unwrap();
    }

    /// A process of its own for the test above; without its settings there is nothing to serve.
    #[tokio::test]
    async fn the_service_of_the_other_test() {
        if std::env::var_os(FILE).is_some() {
            serve().await.unwrap();
        }
    }
}
