//! From a query's bytes to its answer's: is it fit to be forwarded, may this sandbox ask it, and what of the answer may
//! it see.

use super::addresses::{addresses_in, remove_inside};
use super::limits::{MAX_CUSTOM_ANSWER, MAX_UDP_ANSWER, QUERY_DEADLINE};
use super::slot::{Ruling, SlotNames};
use super::{Counters, Dns};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::opt::EdnsOption;
use hickory_resolver::proto::rr::{DNSClass, Name, Record, RecordType};
use leapbox_egress_policy::{Denial, DomainName, Evaluator, Policy};
use leapbox_errors::chain;
use tokio::time::timeout;

/// The option "Extended DNS Error" (RFC 8914), and its code "Prohibited".
const EXTENDED_ERROR: u16 = 15;
const PROHIBITED: u16 = 18;

/// How the query came, which bounds its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A query that is fit to be forwarded, or how to refuse it.
enum Verdict {
    Forward(Query),
    Refuse(ResponseCode),
}

/// What a policy says to a query.
enum Permission {
    /// Ask, and take out what points inside.
    Ask,
    /// Ask, and remember for the proxy what this name was said to be.
    AskAndRemember(DomainName),
    /// There is such a name, and nothing of that kind.
    Nothing,
    Refuse(Denial),
}

impl SlotNames {
    /// Answers one query; `None` for what deserves no answer.
    pub(super) async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let counters = &self.shared.counters;
        let Ok(request) = Message::from_vec(bytes) else {
            Counters::count(&counters.dropped);
            return malformed(bytes);
        };
        if request.metadata.message_type != MessageType::Query {
            Counters::count(&counters.dropped);
            return None;
        }
        let mut response = response_to(&request);
        match judge(&request) {
            Verdict::Refuse(code) => response.metadata.response_code = code,
            Verdict::Forward(query) => match self.ruling() {
                // The slot's sandbox has not begun yet.
                None => response.metadata.response_code = ResponseCode::Refused,
                Some(ruling) => self.answer_under(ruling, &query, &mut response).await,
            },
        }
        Counters::count(&counters.answered);
        if response.metadata.response_code == ResponseCode::ServFail {
            Counters::count(&counters.failed);
        }
        encode(&response, limit(&request, transport, self.ruling()))
    }

    async fn answer_under(&self, ruling: &Ruling, query: &Query, response: &mut Message) {
        let permission = match permission(&ruling.evaluator, query) {
            Permission::AskAndRemember(_) if !self.limits.within_custom_rate() => {
                Permission::Refuse(Denial::TooMany { what: "queries" })
            }
            permission => permission,
        };
        match permission {
            Permission::Nothing => {}
            Permission::Refuse(denial) => {
                ruling.journal.deny(&denial);
                prohibit(response);
            }
            Permission::Ask => {
                self.shared.forward(query, response).await;
                self.filter(ruling, response);
            }
            Permission::AskAndRemember(name) => {
                self.shared.forward(query, response).await;
                self.filter(ruling, response);
                if query.query_type() == RecordType::A {
                    let (addresses, ttl_s) = addresses_in(&response.answers);
                    self.remember_told(name, addresses, ttl_s);
                }
            }
        }
    }

    /// Takes out addresses where no sandbox may go: names of the inside are none of its business, and an allowed name
    /// that points there is somebody's trick (DNS rebinding).
    fn filter(&self, ruling: &Ruling, response: &mut Message) {
        for denial in remove_inside(&ruling.evaluator, &mut response.answers) {
            ruling.journal.deny(&denial);
        }
    }
}

/// Which queries a policy lets through. Under `custom` neither IPv6 nor hints for HTTP/3 and encrypted hellos are of
/// any use, so there are none: what a client must not try it need not know.
fn permission(evaluator: &Evaluator, query: &Query) -> Permission {
    match evaluator.policy() {
        Policy::AllowAll => return Permission::Ask,
        Policy::DenyAll => return Permission::Refuse(Denial::DenyAll),
        Policy::Custom(_) => {}
    }
    let asked = query.name().to_ascii();
    let Ok(name) = DomainName::parse(&asked) else { return Permission::Refuse(Denial::not_a_name(&asked)) };
    if let Err(denial) = evaluator.name(&name) {
        return Permission::Refuse(denial);
    }
    match query.query_type() {
        RecordType::A
        | RecordType::CNAME
        | RecordType::MX
        | RecordType::TXT
        | RecordType::SRV
        | RecordType::NS
        | RecordType::SOA
        | RecordType::CAA => Permission::AskAndRemember(name),
        RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => Permission::Nothing,
        kind => Permission::Refuse(Denial::QueryType { name, kind: kind.to_string() }),
    }
}

fn prohibit(response: &mut Message) {
    response.metadata.response_code = ResponseCode::Refused;
    if let Some(edns) = response.edns.as_mut() {
        edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, PROHIBITED.to_be_bytes().to_vec()));
    }
}

impl Dns {
    async fn forward(&self, query: &Query, response: &mut Message) {
        let (code, answers, authorities) = self.ask(query.name().clone(), query.query_type()).await;
        response.metadata.response_code = code;
        response.add_answers(answers);
        response.add_authorities(authorities);
    }

    /// Asks the upstream; SERVFAIL if there is none, it is busy, or it does not answer in time.
    pub(super) async fn ask(&self, name: Name, kind: RecordType) -> (ResponseCode, Vec<Record>, Vec<Record>) {
        let failed = (ResponseCode::ServFail, vec![], vec![]);
        let (Some(resolver), Ok(_permit)) = (self.upstream.resolver(), self.queries.try_acquire()) else {
            return failed;
        };
        timeout(QUERY_DEADLINE, look_up(&resolver, name, kind)).await.unwrap_or(failed)
    }
}

async fn look_up(resolver: &TokioResolver, name: Name, kind: RecordType) -> (ResponseCode, Vec<Record>, Vec<Record>) {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => (ResponseCode::NoError, lookup.answers().to_vec(), vec![]),
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            let soa = none.soa.map(|soa| soa.into_record_of_rdata());
            (none.response_code, vec![], soa.into_iter().collect())
        }
        Err(error) => {
            tracing::debug!(error = %chain(&error), "a sandbox's DNS query failed");
            (ResponseCode::ServFail, vec![], vec![])
        }
    }
}

/// One question of the Internet class; zone transfers and ANY (RFC 8482) are not for sandboxes.
fn judge(request: &Message) -> Verdict {
    if request.metadata.op_code != OpCode::Query {
        return Verdict::Refuse(ResponseCode::NotImp);
    }
    if request.version() > 0 {
        return Verdict::Refuse(ResponseCode::BADVERS);
    }
    let [query] = request.queries.as_slice() else { return Verdict::Refuse(ResponseCode::FormErr) };
    if query.query_class() != DNSClass::IN {
        return Verdict::Refuse(ResponseCode::Refused);
    }
    match query.query_type() {
        RecordType::ANY => Verdict::Refuse(ResponseCode::NotImp),
        RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG => {
            Verdict::Refuse(ResponseCode::Refused)
        }
        _ => Verdict::Forward(query.clone()),
    }
}

/// The frame of a response: same id, question and flags, EDNS where the query had it.
fn response_to(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.add_queries(request.queries.first().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_ANSWER);
        response.set_edns(edns);
    }
    response
}

/// A header too broken to be read gets FORMERR if there is an id and it is not a response itself.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let [high, low, flags, ..] = bytes else { return None };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([*high, *low]);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

/// Longest answer in bytes: what the asker said it takes, within our own bounds.
fn limit(request: &Message, transport: Transport, ruling: Option<&Ruling>) -> usize {
    let custom = ruling.is_some_and(|ruling| matches!(ruling.evaluator.policy(), Policy::Custom(_)));
    match transport {
        Transport::Tcp if custom => MAX_CUSTOM_ANSWER,
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => usize::from(request.max_payload().min(MAX_UDP_ANSWER)),
    }
}

/// The bytes, or those of an empty answer that says "truncated, ask over TCP".
fn encode(response: &Message, limit: usize) -> Option<Vec<u8>> {
    let whole = response.to_vec().ok();
    match whole {
        Some(bytes) if bytes.len() <= limit => Some(bytes),
        _ => response.truncate().to_vec().ok(),
    }
}

/// What the fuzzer calls: the whole way of a query but for the upstream, then the way of an upstream's answer.
pub(super) fn fuzz(bytes: &[u8], evaluator: &Evaluator) {
    let Ok(mut message) = Message::from_vec(bytes) else {
        malformed(bytes);
        return;
    };
    let mut response = response_to(&message);
    match judge(&message) {
        Verdict::Refuse(code) => response.metadata.response_code = code,
        Verdict::Forward(query) => match permission(evaluator, &query) {
            Permission::AskAndRemember(name) => assert!(evaluator.name(&name).is_ok(), "{name} is not allowed"),
            Permission::Refuse(_) => prohibit(&mut response),
            Permission::Ask | Permission::Nothing => {}
        },
    }
    let longest = limit(&message, Transport::Udp, None);
    let encoded = encode(&response, longest);
    assert!(encoded.is_none_or(|bytes| bytes.len() <= longest.max(512)), "an answer is longer than its asker takes");
    remove_inside(evaluator, &mut message.answers);
    let (addresses, _) = addresses_in(&message.answers);
    assert!(addresses.iter().all(|address| evaluator.address(*address).is_ok()), "an address of the inside is told");
}
