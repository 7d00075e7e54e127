//! The standard server stack behind real sockets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{any, get};
use buttress::Deadline;
use buttress::http::deadline::{ExtractDeadlineConfig, Trust};
use buttress::http::{ServerConfig, ServerLayer, server};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, service_fn};

fn stack(name: &str) -> ServerLayer {
    let trusting = ExtractDeadlineConfig::new().trust(Trust::Everyone);
    server(name, ServerConfig::default().deadline(trusting)).unwrap()
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Sends these bytes, and returns all that the server sends until it closes.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
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
    let response = raw(serve(app).await, request).await;
    assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
    assert!(response.ends_with("\r\n\r\nping"), "{response}");
}

#[tokio::test]
async fn a_deadline_applies_to_one_request_and_not_to_its_connection() {
    let forever = ServerConfig::default()
        .timeout(Duration::MAX)
        .deadline(ExtractDeadlineConfig::new().trust(Trust::Everyone));
    let panics = async || {
        assert!(Deadline::current().is_none(), "scripted panic");
        "none"
    };
    let app = Router::new()
        .route("/", get(async || has_deadline()))
        .route("/panics", get(panics))
        .layer(server("served.connection", forever).unwrap());
    let address = serve(app).await;
    let response = raw(
        address,
        "GET / HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 10S\r\n\r\n\
         GET / HTTP/1.1\r\nhost: x\r\n\r\n\
         GET / HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 0n\r\n\r\n\
         GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    let responses: Vec<_> = response.split("HTTP/1.1 ").skip(1).collect();
    for (response, (status, ends)) in responses.iter().zip([
        ("200", "\r\n\r\ntrue"),
        ("200", "\r\n\r\nfalse"),
        ("504", "}"),
        ("200", "\r\n\r\nfalse"),
    ]) {
        assert!(
            response.starts_with(status) && response.ends_with(ends),
            "{response}"
        );
    }
    assert_eq!(responses.len(), 4);
    let response = raw(
        address,
        "GET /panics HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 10S\r\n\r\n",
    )
    .await;
    assert_eq!(response, "");
    let response = raw(
        address,
        "GET /panics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(response.ends_with("none"), "{response}");
}

/// The status, the content length and the body of the response to a request with this first line and these headers.
async fn respond(address: SocketAddr, line: &str, headers: &str) -> (String, String, String) {
    let request = format!("{line}\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    let response = raw(address, &request).await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap_or_default();
    (status, length.to_owned(), body.to_owned())
}

const OVER: &str = "grpc-timeout: 0n\r\n";

#[tokio::test]
async fn every_request_gets_a_response_that_http_allows() {
    let status = |code: u16| async move { StatusCode::from_u16(code).unwrap() };
    let app = Router::new()
        .route("/", get(async || "text"))
        .route("/204", get(move || status(204)))
        .route("/304", get(move || status(304)))
        .layer(stack("served.any"));
    let address = serve(app).await;
    let problem = respond(address, "GET / HTTP/1.1", OVER).await.2;
    assert!(problem.contains("\"status\":504"), "{problem}");
    let length = problem.len().to_string();
    for (line, headers, status, known_length, body) in [
        ("HEAD / HTTP/1.1", "", "200", "4", ""),
        ("HEAD / HTTP/1.1", OVER, "504", &*length, ""),
        ("GET /204 HTTP/1.1", "", "204", "", ""),
        ("GET /304 HTTP/1.1", "", "304", "", ""),
        ("GET / HTTP/1.0", "", "200", "4", "text"),
        ("GET / HTTP/1.0", OVER, "504", &length, &problem),
        ("OPTIONS * HTTP/1.1", "", "404", "0", ""),
        (
            "POST / HTTP/1.1",
            "grpc-timeout: 0n\r\ncontent-length: 9\r\nexpect: 100-continue\r\n",
            "504",
            &length,
            &problem,
        ),
    ] {
        let expected = (status.into(), known_length.into(), body.into());
        assert_eq!(respond(address, line, headers).await, expected, "{line}");
    }
}

#[tokio::test]
async fn a_health_check_is_recognized_by_its_path_only() {
    let app = Router::new()
        .fallback(async || "reached")
        .layer(stack("served.health"));
    let address = serve(app).await;
    for (line, status) in [
        ("GET /livez HTTP/1.1", "200"),
        ("HEAD /livez HTTP/1.1", "200"),
        ("POST /livez HTTP/1.1", "200"),
        ("GET /livez?verbose&exclude=log HTTP/1.1", "200"),
        ("GET http://elsewhere/livez HTTP/1.1", "200"),
        ("GET /livez/ HTTP/1.1", "504"),
        ("GET //livez HTTP/1.1", "504"),
        ("GET /./livez HTTP/1.1", "504"),
        ("GET /%6civez HTTP/1.1", "504"),
        ("GET /livez%2f HTTP/1.1", "504"),
        ("GET /livez;x HTTP/1.1", "504"),
        ("GET /?/livez HTTP/1.1", "504"),
        ("OPTIONS * HTTP/1.1", "504"),
    ] {
        assert_eq!(respond(address, line, OVER).await.0, status, "{line}");
    }
}

/// Serves one connection, and a client for it.
async fn over_http2<S, B>(service: S) -> (Client<HttpConnector, Empty<Bytes>>, SocketAddr)
where
    S: tower::Service<
            http::Request<Incoming>,
            Response = http::Response<B>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<buttress::BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .await
    });
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Empty<Bytes>>();
    (client, address)
}

#[tokio::test]
async fn without_axum_and_over_http_2_each_stream_has_its_own_deadline() {
    let handler = service_fn(async |_: http::Request<Incoming>| {
        let text = Full::<Bytes>::from(has_deadline());
        Ok::<_, Infallible>(http::Response::new(text))
    });
    let forever = ServerConfig::default()
        .timeout(Duration::MAX)
        .deadline(ExtractDeadlineConfig::new().trust(Trust::Everyone));
    let service = server("served.http2", forever).unwrap().layer(handler);
    let (client, address) = over_http2(service).await;
    let ask = async |timeout: Option<&str>| {
        let mut request = http::Request::get(format!("http://{address}/"));
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let request = request.body(Empty::new()).unwrap();
        let (head, body) = client.request(request).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), text)
    };
    assert_eq!(ask(Some("10S")).await, (200, "true".into()));
    assert_eq!(ask(None).await, (200, "false".into()));
    assert_eq!(ask(Some("0n")).await.0, 504);
    assert_eq!(ask(None).await, (200, "false".into()));
    let (one, other) = tokio::join!(ask(Some("10S")), ask(None));
    assert_eq!((&*one.1, &*other.1), (&b"true"[..], &b"false"[..]));
}

#[tokio::test]
async fn the_response_to_a_rejected_head_request_over_http_2_has_no_body() {
    let handler = service_fn(async |_: http::Request<Incoming>| {
        Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::from("fine")))
    });
    let service = stack("served.head").layer(handler);
    let (client, address) = over_http2(service).await;
    let ask = async |method: http::Method| {
        let request = http::Request::builder().method(method);
        let request = request.uri(format!("http://{address}/"));
        let request = request.header("grpc-timeout", "0n").body(Empty::new());
        let response = client.request(request.unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let length = head.headers.get("content-length").cloned();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), length, body.len())
    };
    let (status, length, sent) = ask(http::Method::GET).await;
    assert_eq!(status, 504);
    assert!(sent > 0);
    assert!(length.is_none_or(|length| length == sent.to_string()));
    let (status, length, body) = ask(http::Method::HEAD).await;
    assert_eq!((status, body), (504, 0));
    assert_eq!(
        length.unwrap(),
        sent.to_string(),
        "the length that a GET would have"
    );
}
