//! The standard server stack behind real sockets: what HTTP makes of it.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{any, get};
use buttress::Deadline;
use buttress::http::deadline::{DeadlineInConfig, Trust};
use buttress::http::{ServerConfig, ServerLayer, server};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn stack(name: &str) -> ServerLayer {
    let trusting = DeadlineInConfig::new().trust(Trust::Everyone);
    server(name, ServerConfig::default().deadline(trusting)).unwrap()
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Sends these bytes, and nothing after them; all that is answered until the server closes.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn has_deadline() -> String {
    Deadline::current().is_some().to_string()
}

#[tokio::test]
async fn an_upgraded_connection_is_left_alone() {
    async fn echo(mut request: Request) -> Response {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 4];
            io.read_exact(&mut bytes).await.unwrap();
            io.write_all(&bytes).await.unwrap();
        });
        let head = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        head.body(Body::empty()).unwrap()
    }
    let app = Router::new()
        .route("/echo", any(echo))
        .layer(stack("served.upgrade"));
    let request =
        "GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nping";
    let answer = raw(serve(app).await, request).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nping"), "{answer}");
}

#[tokio::test]
async fn a_deadline_is_of_one_request_and_not_of_its_connection() {
    let forever = ServerConfig::default()
        .timeout(std::time::Duration::MAX)
        .deadline(DeadlineInConfig::new().trust(Trust::Everyone));
    let panics = async || {
        if Deadline::current().is_some() {
            panic!("scripted panic");
        }
        "none"
    };
    let app = Router::new()
        .route("/", get(async || has_deadline()))
        .route("/panics", get(panics))
        .layer(server("served.connection", forever).unwrap());
    let address = serve(app).await;
    let answer = raw(
        address,
        "GET / HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 10S\r\n\r\n\
         GET / HTTP/1.1\r\nhost: x\r\n\r\n\
         GET / HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 0n\r\n\r\n\
         GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    let bodies: Vec<_> = answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|one| (&one[..3], one.lines().last().unwrap()))
        .collect();
    println!("{bodies:?}");
    let answer = raw(
        address,
        "GET /panics HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 10S\r\n\r\n",
    )
    .await;
    assert_eq!(answer, "");
    let answer = raw(
        address,
        "GET /panics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.ends_with("none"), "{answer}");
}

#[tokio::test]
async fn what_has_no_body_gets_none() {
    let status = |code: u16| async move { (StatusCode::from_u16(code).unwrap(), ()) };
    let app = Router::new()
        .route("/", get(async || "text"))
        .route("/204", get(move || status(204)))
        .route("/304", get(move || status(304)))
        .layer(stack("served.bodies"));
    let address = serve(app).await;
    for request in [
        "HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "HEAD / HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 0n\r\nconnection: close\r\n\r\n",
        "GET /204 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "GET /304 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\ngrpc-timeout: 0n\r\n\r\n",
        "GET http://elsewhere/livez HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 0n\r\nconnection: close\r\n\r\n",
        "GET /%6civez HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 0n\r\nconnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "GET //livez HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 0n\r\nconnection: close\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 0n\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
    ] {
        println!("{request:?}\n   {:?}", raw(address, request).await);
    }
}
