//! The few API calls that are measured, over one kept-alive connection.

use anyhow::{Context, Result, ensure};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::net::SocketAddr;

#[derive(Clone)]
pub struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    api: SocketAddr,
    key: String,
}

impl Client {
    pub fn new(api: SocketAddr, key: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = HttpClient::builder(TokioExecutor::new()).build(connector);
        Self { http, api, key: key.to_owned() }
    }

    /// Creates a sandbox of the default shape and gives its id.
    pub async fn create(&self) -> Result<String> {
        self.create_sized(1024).await
    }

    /// Creates a sandbox with so much memory and gives its id.
    pub async fn create_sized(&self, memory_mib: u64) -> Result<String> {
        let asked = json!({"template_name": "system/debian:bookworm", "timeout": 3600, "memory": memory_mib});
        let sandbox = self.call(Method::POST, "/v1/sandbox", Some(asked), StatusCode::CREATED).await?;
        Ok(sandbox["id"].as_str().unwrap_or_default().to_owned())
    }

    pub async fn execute(&self, id: &str, command: &str) -> Result<()> {
        let path = format!("/v1/sandbox/{id}/process/execute");
        self.call(Method::POST, &path, Some(json!({"command": command})), StatusCode::OK).await.map(drop)
    }

    pub async fn pause(&self, id: &str) -> Result<()> {
        self.call(Method::POST, &format!("/v1/sandbox/{id}/pause"), None, StatusCode::CREATED).await.map(drop)
    }

    pub async fn get(&self, id: &str) -> Result<()> {
        self.call(Method::GET, &format!("/v1/sandbox/{id}"), None, StatusCode::OK).await.map(drop)
    }

    pub async fn delete(&self, id: &str) -> Result<()> {
        self.call(Method::DELETE, &format!("/v1/sandbox/{id}"), None, StatusCode::NO_CONTENT).await.map(drop)
    }

    /// Reads a page of plain text from another port of the server.
    pub async fn text(&self, address: SocketAddr, path: &str) -> Result<String> {
        let request = Request::get(format!("http://{address}{path}")).body(Full::default());
        let (_, body) = self.send(request, &format!("GET {path}")).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>, expected: StatusCode) -> Result<Value> {
        let name = format!("{method} {path}");
        let body = body.map_or_else(Bytes::new, |value| value.to_string().into());
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.api))
            .header("authorization", format!("Bearer {}", self.key))
            .header("content-type", "application/json")
            .body(Full::new(body));
        let (status, body) = self.send(request, &name).await?;
        let text = String::from_utf8_lossy(&body);
        ensure!(status == expected, "{name} was answered {}: {text}", status.as_u16());
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn send(
        &self,
        request: Result<Request<Full<Bytes>>, http::Error>,
        name: &str,
    ) -> Result<(StatusCode, Bytes)> {
        let answered = async {
            let answer = self.http.request(request?).await?;
            let status = answer.status();
            anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
        };
        answered.await.with_context(|| format!("{name} failed"))
    }
}
