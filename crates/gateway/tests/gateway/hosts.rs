//! Who is reached under which name.

use super::support::{DOMAIN, Site, app, none, read, text};
use http::{Request, Response};

async fn hello() -> std::net::SocketAddr {
    app(|_| async { Response::new(text("hello")) }).await
}

#[tokio::test]
async fn case_30_names_and_ports_are_refused_or_reached_as_the_table_says() {
    let site = Site::start().await;
    let host = site.app(hello().await);
    let id = site.sandbox.to_string();
    let upper = host.to_ascii_uppercase();
    let table = [
        (host.clone(), 200),
        (upper, 200),
        (format!("{host}."), 200),
        (format!("{host}:443"), 200),
        (format!("{id}-0.{DOMAIN}"), 400),
        (format!("{id}-65536.{DOMAIN}"), 400),
        (format!("{id}-08080.{DOMAIN}"), 400),
        (format!("{id}-52052.{DOMAIN}"), 400),
        (format!("{id}-.{DOMAIN}"), 400),
        (format!("x-8080.{DOMAIN}"), 404),
        (format!("a.{host}"), 404),
        (format!("{host}.evil.test"), 404),
        ("evil.test".to_owned(), 404),
        (format!("user@{host}"), 400),
    ];
    for (name, status) in table {
        let head =
            format!("GET / HTTP/1.1\r\nhost: {name}\r\nauthorization: {}\r\nconnection: close\r\n\r\n", site.key);
        let answer = site.raw(&head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
        assert_eq!(answer.contains("x-leapbox-error"), status != 200, "{name}: {answer}");
    }
}

#[tokio::test]
async fn host_fields_that_could_be_read_two_ways_are_refused() {
    let site = Site::start().await;
    let host = site.app(hello().await);
    let key = &site.key;
    let rest = format!("authorization: {key}\r\nconnection: close\r\n\r\n");
    let table = [
        (format!("GET / HTTP/1.1\r\n{rest}"), 400),
        (format!("GET / HTTP/1.0\r\n{rest}"), 400),
        (format!("GET / HTTP/1.1\r\nhost: {host}\r\nhost: {host}\r\n{rest}"), 400),
        (format!("GET https://{host}/ HTTP/1.1\r\nhost: {DOMAIN}\r\n{rest}"), 400),
        (format!("GET https://{host}/ HTTP/1.1\r\nhost: {host}\r\n{rest}"), 200),
        (format!("GET / HTTP/1.0\r\nhost: {host}\r\n{rest}"), 200),
        (format!("CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n{rest}"), 405),
    ];
    for (request, status) in table {
        let answer = site.raw(&request).await;
        let line = answer.lines().next().unwrap_or_default();
        assert_eq!(line.split(' ').nth(1), Some(&*status.to_string()), "{request} gave {answer}");
    }
    let request = site.request2("GET", &host, "/").header("host", DOMAIN).body(none()).expect("a request");
    assert_eq!(site.h2().await.send_request(request).await.expect("an answer").status(), 400);
}

#[tokio::test]
async fn unknown_and_foreign_sandboxes_get_the_same_answer() {
    let site = Site::start().await;
    let host = site.app(hello().await);
    let unknown = format!("{}-8080.{DOMAIN}", leapbox_ids::SandboxId::generate());
    let mut answers = Vec::new();
    for (name, key) in [(&unknown, &site.key), (&host, &site.foreign_key), (&unknown, &site.foreign_key)] {
        let request = Request::get("/").header("host", name).header("leap0-authorization", format!("Bearer {key}"));
        let request = request.body(none()).expect("a request");
        let mut answer = site.h1().await.send_request(request).await.expect("an answer");
        answer.headers_mut().remove("date");
        let head = (answer.status(), answer.headers().clone());
        answers.push((head, read(answer).await));
    }
    assert_eq!(answers[0].0.0, 404);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

#[tokio::test]
async fn without_a_key_nobody_learns_whether_a_sandbox_exists() {
    let site = Site::start().await;
    let host = site.app(hello().await);
    let unknown = format!("{}.{DOMAIN}", leapbox_ids::SandboxId::generate());
    let mut answers = Vec::new();
    for name in [host, unknown] {
        for key in [None, Some("not a key"), Some("Bearer lb_0000000000000000000000000000")] {
            let mut request = Request::get("/").header("host", &name);
            if let Some(key) = key {
                request = request.header("authorization", key);
            }
            let answer = site.h1().await.send_request(request.body(none()).expect("a request")).await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            answers.push(read(answer).await);
        }
    }
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:?}");
    assert!(answers[0].starts_with("{\"message\":"), "{}", answers[0]);
}

#[tokio::test]
async fn the_control_plane_answers_under_its_own_names() {
    let site = Site::start().await;
    for name in [DOMAIN.to_owned(), format!("api.{DOMAIN}"), format!("API.{DOMAIN}:8443")] {
        let request = Request::get("/v1/ping").header("host", &name).body(none()).expect("a request");
        let answer = site.h1().await.send_request(request).await.expect("an answer");
        assert_eq!(read(answer).await, "control plane for 127.0.0.1", "{name}");
    }
    let request = Request::get(format!("https://api.{DOMAIN}/v1/ping")).body(none()).expect("a request");
    let answer = site.h2().await.send_request(request).await.expect("an answer");
    assert_eq!(read(answer).await, "control plane for 127.0.0.1");
    assert_eq!(site.gateway.stats().requests_control, 4);
}

#[tokio::test]
async fn a_name_without_port_is_the_images_port() {
    let site = Site::start().await;
    site.listens(3000, hello().await);
    let host = format!("{}.{DOMAIN}", site.sandbox);
    assert_eq!(site.get(&host, "/").await.status(), 404);
    site.image_port(3000);
    assert_eq!(read(site.get(&host, "/").await).await, "hello");
}

#[tokio::test]
async fn nothing_listening_is_a_502_that_names_the_port() {
    let site = Site::start().await;
    let answer = site.get(&site.host(8080), "/").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["x-leapbox-error"], "gateway");
    assert_eq!(answer.headers()["content-type"], "application/json");
    let body = read(answer).await;
    assert!(body.contains(&format!("nothing listens on port 8080 in sandbox {}", site.sandbox)), "{body}");
}
