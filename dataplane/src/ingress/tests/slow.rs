//! Clients that are slow, or want what there is not, over HTTP/1.1.

use super::*;

/// What the server says until it closes.
async fn rest(stream: &mut DuplexStream) -> String {
    let mut rest = Vec::new();
    timeout(LATE, stream.read_to_end(&mut rest)).await.expect("closed").unwrap();
    String::from_utf8(rest).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_ends_with_the_requests_time() {
    let bench = Bench::new().await;
    let mut stream = bench.connect();
    let head = "POST /sign HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let started = Instant::now();
    let (mut near, mut far) = tokio::io::split(stream);
    let trickle = async {
        // Ends when the server has closed.
        while far.write_all(b" ").await.is_ok() {
            tokio::time::advance(Duration::from_millis(500)).await;
        }
    };
    let mut said = Vec::new();
    let read = async { timeout(LATE, near.read_to_end(&mut said)).await.expect("closed") };
    let ((), read) = tokio::join!(trickle, read);
    // What came after the answer may have cut the connection.
    read.unwrap_or_default();
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 504 ") && said.contains("DEADLINE_EXCEEDED"), "{said}");
    let limit = Config::default().limits.request_timeout();
    assert!(started.elapsed() < limit + HEAD_TIME_MAX, "{:?}", started.elapsed());
}

const WHOLE: &str = "GET /keys HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_is_kept_for_minutes() {
    let bench = Bench::new().await;
    let mut stream = bench.connect();
    for _ in 0..3 {
        stream.write_all(WHOLE.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        // The rest of it.
        let mut rest = vec![0; 4_096];
        assert!(stream.read(&mut rest).await.unwrap() > 0);
        tokio::time::advance(IDLE_TIME_MAX.saturating_sub(Duration::from_secs(1))).await;
    }
    assert_eq!(rest(&mut stream).await, "", "in the end it is closed");
}

#[tokio::test(start_paused = true)]
async fn a_later_head_that_does_not_end_holds_back_no_answer_and_no_place_for_ever() {
    let bench = Bench::new().await;
    let mut stream = bench.connect();
    stream.write_all(WHOLE.as_bytes()).await.unwrap();
    stream.write_all(b"GET /keys HTTP/1.1\r\nx-slow: ").await.unwrap();
    let mut answer = [0; 12];
    let answered = timeout(Duration::from_secs(1), stream.read_exact(&mut answer)).await;
    answered.expect("at once").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    rest(&mut stream).await;
}

#[tokio::test(start_paused = true)]
async fn websockets_are_refused_with_a_clear_message_on_every_path() {
    let bench = Bench::new().await;
    for (path, upgrade) in [("/sign", "websocket"), ("/", "WebSocket"), ("/keys", "h2c, websocket")]
    {
        let mut stream = bench.connect();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1_024];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(answer.contains("WebSocket is not supported; use HTTP or gRPC"), "{answer}");
    }
}
