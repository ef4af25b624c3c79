//! From a query's bytes to its answer's.

use super::limits::{MAX_UDP_ANSWER, QUERY_DEADLINE};
use super::{Counters, Dns};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Record, RecordType};
use tokio::time::timeout;

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

impl Dns {
    /// Answers one query; `None` for what deserves no answer.
    pub(super) async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Ok(request) = Message::from_vec(bytes) else {
            Counters::count(&self.counters.dropped);
            return malformed(bytes);
        };
        if request.metadata.message_type != MessageType::Query {
            Counters::count(&self.counters.dropped);
            return None;
        }
        let mut response = response_to(&request);
        match judge(&request) {
            Verdict::Refuse(code) => response.metadata.response_code = code,
            Verdict::Forward(query) => self.forward(&query, &mut response).await,
        }
        Counters::count(&self.counters.answered);
        if response.metadata.response_code == ResponseCode::ServFail {
            Counters::count(&self.counters.failed);
        }
        encode(&response, limit(&request, transport))
    }

    async fn forward(&self, query: &Query, response: &mut Message) {
        response.metadata.response_code = ResponseCode::ServFail;
        let (Some(resolver), Ok(_permit)) = (self.upstream.resolver(), self.queries.try_acquire()) else { return };
        let lookup = look_up(&resolver, query);
        let Ok((code, answers, authorities)) = timeout(QUERY_DEADLINE, lookup).await else { return };
        response.metadata.response_code = code;
        response.add_answers(answers);
        response.add_authorities(authorities);
    }
}

async fn look_up(resolver: &TokioResolver, query: &Query) -> (ResponseCode, Vec<Record>, Vec<Record>) {
    match resolver.lookup(query.name().clone(), query.query_type()).await {
        Ok(lookup) => (ResponseCode::NoError, lookup.answers().to_vec(), vec![]),
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            let soa = none.soa.map(|soa| soa.into_record_of_rdata());
            (none.response_code, vec![], soa.into_iter().collect())
        }
        Err(error) => {
            tracing::debug!(%error, "a sandbox's DNS query failed");
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
fn limit(request: &Message, transport: Transport) -> usize {
    match transport {
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
