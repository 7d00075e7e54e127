//! The commands.

use std::fmt::Write;
use std::time::Duration;

use axum::http::Response;
use buttress::idempotency::IdempotencyLayer;
use buttress::idempotency::lookup::{Found, ListFilter, RecordOf, Repair};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use humantime::format_duration;

use crate::Error;
use crate::args::{Command, Seen};

/// How many records to read at a time.
const PAGE: usize = 500;

/// Runs the command, and returns what to print.
pub(crate) async fn run(layer: &IdempotencyLayer, command: Command) -> Result<String, Error> {
    match command {
        Command::List {
            state,
            older_than,
            limit,
        } => {
            let mut filter = ListFilter::new();
            if let Some(state) = state {
                filter = filter.state(state);
            }
            if let Some(age) = older_than {
                filter = filter.older_than(age);
            }
            list(layer, &filter, limit).await
        }
        Command::Show { record, body } => Ok(shown(&find(layer, &record).await?, body)),
        Command::Find(request) => {
            let mut of = RecordOf::new(request.method, request.target, request.key);
            of = of.tenant(request.tenant);
            if let Some(path) = request.inner_path {
                of = of.inner_path(path);
            }
            if let Some(route) = request.route {
                of = of.route(route);
            }
            let found = layer.find(&layer.record(&of)).await?;
            let found = found.ok_or("there is no record of this request")?;
            Ok(shown(&found, request.body))
        }
        Command::Release { record, seen } => {
            let found = repair(layer, &record, &seen, Repair::release()).await?;
            Ok(format!(
                "released {}: the next request with its key runs the operation",
                found.operation_id()
            ))
        }
        Command::Record {
            record,
            seen,
            status,
            header,
            body,
        } => {
            let mut response = Response::new(body.into());
            *response.status_mut() = status;
            for (name, value) in header {
                response.headers_mut().append(name, value);
            }
            let found = repair(layer, &record, &seen, Repair::record(response)).await?;
            Ok(format!(
                "recorded {status} for {}: repetitions get this response",
                found.operation_id()
            ))
        }
        Command::Demo { .. } | Command::Serve => Err("not a command for a store".into()),
    }
}

async fn repair(
    layer: &IdempotencyLayer,
    record: &str,
    seen: &Seen,
    repair: Repair,
) -> Result<Found, Error> {
    let found = find(layer, record).await?;
    if found.run() != seen.run {
        return Err(format!(
            "the record is in run {}, but you saw run {}: the operation has run again since then. Check the record again",
            found.run(),
            seen.run
        )
        .into());
    }
    layer.repair(&found, repair.force(seen.force)).await?;
    Ok(found)
}

/// The operation with this key, or with these first digits of it.
async fn find(layer: &IdempotencyLayer, record: &str) -> Result<Found, Error> {
    let missing = || format!("there is no record `{record}`: it expired, or was released");
    if let Ok(record) = record.parse() {
        return Ok(layer.find(&record).await?.ok_or_else(missing)?);
    }
    let digits = record.len();
    if !(8..64).contains(&digits) || !record.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(
            format!("`{record}` does not name a record: give 8 to 64 hexadecimal digits").into(),
        );
    }
    let (found, _) = all(layer, &ListFilter::new().prefix(record), 2).await?;
    match &found[..] {
        [] => Err(missing().into()),
        // A list has no stored response.
        [one] => Ok(layer.find(&one.record()).await?.ok_or_else(missing)?),
        _ => Err(format!("`{record}` names more than one record: give more digits").into()),
    }
}

/// Up to `limit` operations, each once, and how many records could not be read.
async fn all(
    layer: &IdempotencyLayer,
    filter: &ListFilter,
    limit: usize,
) -> Result<(Vec<Found>, usize), Error> {
    let (mut operations, mut unreadable, mut after) = (Vec::<Found>::new(), 0, None);
    loop {
        let page = layer.list(filter, after.as_deref(), PAGE).await?;
        unreadable += page.unreadable;
        for found in page.operations {
            // A scan may show a record twice.
            if operations.iter().all(|one| one.record() != found.record()) {
                operations.push(found);
            }
            if operations.len() >= limit {
                return Ok((operations, unreadable));
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok((operations, unreadable)),
        }
    }
}

async fn list(
    layer: &IdempotencyLayer,
    filter: &ListFilter,
    limit: usize,
) -> Result<String, Error> {
    let (operations, unreadable) = all(layer, filter, limit).await?;
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "operation",
        "state",
        "status",
        "run",
        "age",
        "expires in",
    ]);
    for found in &operations {
        table.add_row([
            found.operation_id().to_string(),
            found.state().to_string(),
            status(found),
            found.run().to_string(),
            time(found.age()),
            time(found.expires_in()),
        ]);
    }
    let mut text = format!("{table}\n{} operations", operations.len());
    if unreadable > 0 {
        write!(
            text,
            ", and {unreadable} records that this version cannot read"
        )?;
    }
    Ok(text)
}

fn shown(found: &Found, with_body: bool) -> String {
    let mut lines = vec![
        format!("operation   {}", found.operation_id()),
        format!("record      {}", found.record().to_hex()),
        format!("state       {} {}", found.state(), status(found)),
        format!("run         {}", found.run()),
        format!("age         {}", time(found.age())),
        format!("expires in  {}", time(found.expires_in())),
    ];
    if let Some(lease) = found.lease() {
        lines.push(format!("lease       {} left", time(lease)));
    }
    if let Some(since) = found.stopped_since() {
        lines.push(format!("stopped     {} ago", time(since)));
    }
    if let Some(response) = found.response() {
        let length = response.body().len();
        if with_body {
            lines.push(String::new());
            for (name, value) in response.headers() {
                lines.push(format!(
                    "{name}: {}",
                    String::from_utf8_lossy(value.as_bytes())
                ));
            }
            lines.push(String::new());
            lines.push(String::from_utf8_lossy(response.body()).into_owned());
        } else {
            lines.push(format!("response    {length} bytes (--body prints it)"));
        }
    }
    lines.join("\n")
}

fn status(found: &Found) -> String {
    let status = found.status();
    status.map_or_else(String::new, |status| status.as_u16().to_string())
}

/// To the second; below that, to the millisecond.
fn time(time: Duration) -> String {
    let rounded = if time < Duration::from_secs(1) {
        Duration::from_millis(u64::from(time.subsec_millis()))
    } else {
        Duration::from_secs(time.as_secs())
    };
    format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests;
