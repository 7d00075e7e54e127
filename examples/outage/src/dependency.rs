//! One copy of the dependency: a real HTTP server whose two workers follow the plan.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::args::Fault;
use crate::plan::{Plan, WORKERS, WorkResult};

const BACKLOG: i32 = 4096;

/// A port that is ours for the whole run, whether or not anybody listens on it.
#[derive(Debug)]
pub(crate) struct Port {
    now: TcpListener,
    /// Bound to the same port, not listening: while `now` is closed, connections are refused and yet
    /// no other process can take the port. After a crash it is the one that listens.
    next: Socket,
}

struct Job {
    arrived: Duration,
    answer: oneshot::Sender<WorkResult>,
}

#[derive(Clone)]
struct Queue {
    start: Instant,
    jobs: mpsc::UnboundedSender<Job>,
}

impl Port {
    /// `port` 0 takes any that is free.
    pub(crate) fn bind(port: u16) -> io::Result<Self> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        bind_twice(wanted)
            .and_then(|(now, next)| {
                Ok(Self {
                    now: listen(now)?,
                    next,
                })
            })
            .map_err(|error| {
                let advice = "--port 0 takes any that is free";
                io::Error::new(
                    error.kind(),
                    format!("cannot bind {wanted}: {error}; {advice}"),
                )
            })
    }

    pub(crate) fn url(&self) -> io::Result<String> {
        Ok(format!("http://{}/", self.now.local_addr()?))
    }
}

/// Serves until dropped; returns only if it fails.
pub(crate) async fn serve(port: Port, plan: Arc<Plan>, start: Instant) -> io::Result<()> {
    let (jobs, queue) = mpsc::unbounded_channel();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..WORKERS {
        tokio::spawn(work(Arc::clone(&plan), start, Arc::clone(&queue)));
    }
    let queue = Queue { start, jobs };
    let mut connections = JoinSet::new();
    if plan.fault != Fault::Refuse {
        return accept(&port.now, &queue, &mut connections, plan.fault).await;
    }
    if let Ok(failed) = timeout_at(
        start + plan.outage.start,
        accept(&port.now, &queue, &mut connections, plan.fault),
    )
    .await
    {
        return failed;
    }
    drop(port.now);
    // Dropping the connections resets them: see `accept`.
    connections.shutdown().await;
    sleep_until(start + plan.outage.end).await;
    accept(&listen(port.next)?, &queue, &mut connections, plan.fault).await
}

async fn accept(
    listener: &TcpListener,
    queue: &Queue,
    connections: &mut JoinSet<()>,
    fault: Fault,
) -> io::Result<()> {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The caller left before we looked.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            },
            // Removes ended connections.
            Some(_) = connections.join_next() => continue,
        };
        if fault == Fault::Refuse {
            // A crash must look like one: a socket with no linger time is reset when it is closed.
            stream.set_zero_linger()?;
        }
        connections.spawn(connection(stream, queue.clone()));
    }
}

async fn connection(stream: TcpStream, queue: Queue) {
    let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
        let (answer, worked) = oneshot::channel();
        let job = Job {
            arrived: queue.start.elapsed(),
            answer,
        };
        // In the queue it stays, even if the caller leaves and this future is dropped.
        let queued = queue.jobs.send(job).is_ok();
        async move {
            let status = match worked.await {
                Ok(WorkResult::Good) if queued => StatusCode::OK,
                Ok(WorkResult::Error) => StatusCode::INTERNAL_SERVER_ERROR,
                _ => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            };
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = status;
            Ok(response)
        }
    });
    // It ends with an error whenever a caller leaves or the dependency crashes: both are expected.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

/// One worker. It follows its ideal schedule: even if a timer fires late or a task is delayed, the next
/// piece of work starts where the last one should have ended, so the capacity is exact.
async fn work(plan: Arc<Plan>, start: Instant, queue: Arc<Mutex<mpsc::UnboundedReceiver<Job>>>) {
    let mut free = Duration::ZERO;
    loop {
        let Some(job) = queue.lock().await.recv().await else {
            return;
        };
        let work = plan.work(job.arrived, free);
        sleep_until(start + work.done).await;
        free = work.done;
        // Nobody waits any more if the caller left; the work was done all the same.
        let _ = job.answer.send(work.result);
    }
}

/// Two sockets bound to one port; an error if anybody else has it already.
fn bind_twice(wanted: SocketAddr) -> io::Result<(Socket, Socket)> {
    let socket = || -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(wanted),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let (first, second) = (socket()?, socket()?);
    // Only for what an earlier run may have left in TIME_WAIT: unlike a shared port, it cannot be bound
    // over a listener.
    first.set_reuse_address(cfg!(unix))?;
    first.bind(&wanted.into())?;
    first.set_reuse_address(false)?;
    share(&first)?;
    share(&second)?;
    second.bind(&first.local_addr()?)?;
    Ok((first, second))
}

/// Lets this socket share its port with another socket of this user that sets the same option.
fn share(socket: &Socket) -> io::Result<()> {
    #[cfg(unix)]
    return socket.set_reuse_port(true);
    #[cfg(not(unix))]
    return socket.set_reuse_address(true);
}

fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crash_resets_and_refuses_and_the_port_stays_ours() {
        let second = Duration::from_secs(1);
        let plan = Plan {
            fault: Fault::Refuse,
            outage: second / 2..2 * second,
            cold_until: 2 * second,
            load_end: 3 * second,
            end: 3 * second,
            service: Duration::from_millis(20),
            rate: 1.0,
        };
        let port = Port::bind(0).unwrap();
        let address = port.now.local_addr().unwrap();
        let start = Instant::now();
        let server = tokio::spawn(serve(port, Arc::new(plan), start));

        let connection = TcpStream::connect(address).await.unwrap();
        connection.readable().await.unwrap();
        let error = connection.try_read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = TcpListener::bind(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        sleep_until(start + 2 * second).await;
        while TcpStream::connect(address).await.is_err() {
            assert!(start.elapsed() < 20 * second && !server.is_finished());
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Port::bind(port).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot bind 127.0.0.1:{port}: ")),
            "{error}"
        );
    }
}
