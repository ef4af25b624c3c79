//! Who trusts whom: the guest its own sandbox's authority alone, the proxy the host's anchors alone.

use crate::server::Server;
use crate::support::{API, Issued, PublicCa, SECRET, Sandbox, empty, full, in_world, run, tls_trusting};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use leapbox_egress::Authority;
use std::net::Ipv4Addr;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const AT: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);

async fn refused(answer: Response<Incoming>) -> String {
    assert_eq!(answer.status().as_u16(), 502);
    let text = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(text.to_vec()).expect("text")
}

#[test]
fn case_24_an_upstream_with_a_bad_certificate_gets_no_request() {
    in_world(|| async {
        let ca = PublicCa::new();
        let cases: [(&str, u8, Issued, &str); 4] = [
            ("expired.example.com", 34, ca.issue_expired("expired.example.com"), "has expired"),
            ("wrong.example.com", 35, ca.issue("right.example.com"), "is for another name"),
            ("self.example.com", 36, PublicCa::self_signed("self.example.com"), "does not trust"),
            ("ip.example.com", 37, ca.issue("93.184.216.37"), "is for another name"),
        ];
        let address = |host| Ipv4Addr::new(93, 184, 216, host);
        let names: Vec<_> = cases.iter().map(|(name, host, ..)| (*name, address(*host))).collect();
        let sandbox = Sandbox::start(&ca, &names).await;
        let mut denied = 0;
        for (name, host, issued, reason) in cases {
            let server = Server::start(address(host), issued, &["h2", "http/1.1"]).await;
            let mut guest = sandbox.http1(name, address(host)).await;
            let request = Request::post("/hash").header("host", name).body(full("a secret body")).expect("a request");
            let text = refused(guest.send_request(request).await.expect("an answer")).await;
            assert!(text.contains(reason) && text.contains(name) && !text.contains(SECRET), "{text}");

            let mut guest = sandbox.http2(name, address(host)).await;
            let request = Request::get(format!("https://{name}/hello")).body(empty()).expect("a request");
            let text = refused(guest.send_request(request).await.expect("an answer")).await;
            assert!(text.contains(reason), "{text}");
            denied += 2;
            assert_eq!((server.seen().len(), sandbox.denials("upstream")), (0, denied));
        }
    });
}

#[test]
fn an_upstream_that_is_not_there_is_told_of_and_tried_again_on_the_next_connection() {
    in_world(|| async {
        let ca = PublicCa::new();
        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        let ask = || Request::get("/hello").header("host", API).body(empty()).expect("a request");
        let mut guest = sandbox.http1(API, AT).await;
        let answer = guest.send_request(ask()).await.expect("an answer");
        assert_eq!(answer.headers()["connection"], "close");
        let text = refused(answer).await;
        assert!(text.contains("refused"), "{text}");
        assert!(guest.ready().await.is_err(), "the connection should be over");

        let _server = Server::start(AT, ca.issue(API), &["http/1.1"]).await;
        let mut guest = sandbox.http1(API, AT).await;
        assert_eq!(guest.send_request(ask()).await.expect("an answer").status().as_u16(), 200);
    });
}

#[test]
fn case_25_the_leaf_names_only_the_sni_and_another_sandboxs_authority_is_not_trusted() {
    in_world(|| async {
        let ca = PublicCa::new();
        let server = Server::start(AT, ca.issue(API), &["http/1.1"]).await;
        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        let stream = sandbox.tls(API, AT, &["http/1.1"]).await.expect("TLS");
        let chain = stream.get_ref().1.peer_certificates().expect("a certificate");
        let (_, leaf) = X509Certificate::from_der(&chain[0]).expect("a certificate");
        let names = &leaf.subject_alternative_name().expect("readable").expect("there").value.general_names;
        assert_eq!((chain.len(), names), (1, &vec![GeneralName::DNSName(API)]));

        let another = Authority::generate().expect("an authority");
        let error = tls_trusting(&another, API, AT, &["http/1.1"]).await.expect_err("another sandbox");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert_eq!(server.seen().len(), 0);
    });
}

#[test]
fn openssl_and_python_accept_the_leaf_under_their_strictest_rules() {
    in_world(|| async {
        let ca = PublicCa::new();
        let _server = Server::start(AT, ca.issue(API), &["http/1.1"]).await;
        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, sandbox.authority.certificate_pem()).expect("written");
        let path = path.to_str().expect("a path").to_owned();
        tokio::task::spawn_blocking(move || {
            let to = format!("{AT}:443");
            let arguments = ["s_client", "-connect", &to, "-servername", API, "-CAfile", &path, "-x509_strict"];
            let verify = ["-verify_hostname", API, "-verify_return_error", "-verify", "3"];
            let said = run("openssl", &[&arguments[..], &verify].concat(), "");
            assert!(said.contains("Verification: OK") || said.contains("Verify return code: 0"), "{said}");
            let program = format!(
                "import socket, ssl\n\
                 context = ssl.create_default_context(cafile={path:?})\n\
                 context.verify_flags |= ssl.VERIFY_X509_STRICT\n\
                 context.verify_flags &= ~ssl.VERIFY_X509_TRUSTED_FIRST\n\
                 with context.wrap_socket(socket.create_connection(('{AT}', 443)), server_hostname='{API}') as s:\n\
                 \x20   print(s.getpeercert()['subjectAltName'])\n"
            );
            assert_eq!(run("python3", &["-"], &program), format!("(('DNS', '{API}'),)\n"));
        })
        .await
        .expect("programs");
    });
}
