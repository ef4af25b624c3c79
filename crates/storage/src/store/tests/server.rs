//! A small S3 over plain HTTP with path-style addresses: enough of it for this store, with a count of requests and
//! faults on demand. The end-to-end tests run against a complete one.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, ETAG, LAST_MODIFIED};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

#[derive(Default)]
pub(super) struct S3 {
    pub objects: Mutex<BTreeMap<String, Bytes>>,
    /// Pieces of uploads that were not completed, by upload and number.
    pub pieces: Mutex<BTreeMap<(String, usize), Bytes>>,
    /// All requests, as `METHOD key`.
    pub log: Mutex<Vec<String>>,
    /// So many requests are answered with 503.
    pub failures: AtomicUsize,
    /// All writes are answered with 403.
    pub forbidden: AtomicBool,
    uploads: AtomicUsize,
    /// Uploads that were completed or aborted.
    ended: Mutex<BTreeSet<String>>,
}

impl S3 {
    /// Serves the bucket `archives` on a port of its own; the URL is its endpoint.
    pub async fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let s3 = Arc::new(Self::default());
        let served = Arc::clone(&s3);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let s3 = Arc::clone(&served);
                let service = service_fn(move |request| {
                    let s3 = Arc::clone(&s3);
                    async move { Ok::<_, Infallible>(s3.answer(request).await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        (s3, endpoint)
    }

    /// How many requests were made whose log begins so.
    pub fn count(&self, start: &str) -> usize {
        self.log.lock().expect("unpoisoned").iter().filter(|line| line.starts_with(start)).count()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let signed = head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(
            signed.starts_with("AWS4-HMAC-SHA256 Credential=user/") && head.headers.contains_key("host"),
            "{signed}"
        );
        let query: BTreeMap<String, String> = head
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (name.to_owned(), value.replace("%2F", "/")))
            .collect();
        let key = head.uri.path().strip_prefix("/archives").expect("path style").trim_start_matches('/').to_owned();
        self.log.lock().expect("unpoisoned").push(format!("{} {key}", head.method));
        let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return status(StatusCode::BAD_REQUEST);
        };
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return status(StatusCode::SERVICE_UNAVAILABLE);
        }
        if head.method != Method::GET && self.forbidden.load(Ordering::SeqCst) {
            return status(StatusCode::FORBIDDEN);
        }
        match query.get("uploadId") {
            Some(upload) => self.multipart(&head.method, upload, &key, &query, body),
            None => self.object(&head.method, &key, &query, body),
        }
    }

    fn object(
        &self,
        method: &Method,
        key: &str,
        query: &BTreeMap<String, String>,
        body: Bytes,
    ) -> Response<Full<Bytes>> {
        let mut objects = self.objects.lock().expect("unpoisoned");
        match *method {
            Method::GET if key.is_empty() => {
                let prefix = query.get("prefix").map_or("", String::as_str);
                let found = objects.iter().filter(|(key, _)| key.starts_with(prefix));
                let entry = |(key, bytes): (&String, &Bytes)| {
                    let (size, time) = (bytes.len(), "2026-01-01T00:00:00.000Z");
                    format!(
                        "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{time}</LastModified><ETag>1</ETag></Contents>"
                    )
                };
                xml(format!("<ListBucketResult>{}</ListBucketResult>", found.map(entry).collect::<String>()))
            }
            Method::GET => match objects.get(key) {
                Some(bytes) => Response::builder()
                    .header(CONTENT_LENGTH, bytes.len())
                    .header(LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT")
                    .header(ETAG, "\"1\"")
                    .body(Full::new(bytes.clone()))
                    .expect("an answer"),
                None => status(StatusCode::NOT_FOUND),
            },
            Method::PUT => {
                objects.insert(key.to_owned(), body);
                status(StatusCode::OK)
            }
            Method::DELETE => {
                objects.remove(key);
                status(StatusCode::NO_CONTENT)
            }
            Method::POST if query.contains_key("uploads") => {
                let upload = self.uploads.fetch_add(1, Ordering::SeqCst);
                xml(format!(
                    "<InitiateMultipartUploadResult><UploadId>u{upload}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn multipart(
        &self,
        method: &Method,
        upload: &str,
        key: &str,
        query: &BTreeMap<String, String>,
        body: Bytes,
    ) -> Response<Full<Bytes>> {
        let mut pieces = self.pieces.lock().expect("unpoisoned");
        let mut ended = self.ended.lock().expect("unpoisoned");
        // S3's `NoSuchUpload`: a piece may arrive after the abort that overtook it on another connection.
        if ended.contains(upload) {
            return status(StatusCode::NOT_FOUND);
        }
        if *method == Method::PUT {
            let number = query.get("partNumber").and_then(|number| number.parse().ok()).expect("a number");
            pieces.insert((upload.to_owned(), number), body);
            return status(StatusCode::OK);
        }
        let mine: Vec<Bytes> =
            pieces.iter().filter(|((of, _), _)| of == upload).map(|(_, bytes)| bytes.clone()).collect();
        pieces.retain(|(of, _), _| of != upload);
        ended.insert(upload.to_owned());
        if *method == Method::DELETE {
            return status(StatusCode::NO_CONTENT);
        }
        self.objects.lock().expect("unpoisoned").insert(key.to_owned(), mine.concat().into());
        xml("<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>".to_owned())
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    Response::builder().status(status).header(ETAG, "\"1\"").body(Full::default()).expect("an answer")
}

fn xml(text: String) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from(format!("<?xml version=\"1.0\"?>{text}"))))
}
