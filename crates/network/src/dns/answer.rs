//! Answers one query: checks whether it can be forwarded, whether this sandbox's policy allows it, and which addresses
//! of the answer the sandbox may see.

use super::addresses::{addresses_in, remove_closed};
use super::limits::{MAX_CUSTOM_ANSWER, MAX_UDP_ANSWER, QUERY_DEADLINE};
use super::slot::{NamePolicy, SlotNameServer};
use super::{Counters, Dns};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::opt::EdnsOption;
use hickory_resolver::proto::rr::{DNSClass, Name, Record, RecordType};
use leapbox_egress_policy::{Denial, DomainName, Evaluator, Policy};
use leapbox_errors::chain;
use tokio::time::timeout;

/// The EDNS option "Extended DNS Error" and its code "Prohibited" (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
const PROHIBITED: u16 = 18;

/// The transport of a query, which bounds the length of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The first layer, of the protocol: whether a query can be forwarded at all, under any policy. Refusals of this layer
/// are answered and not written to the journal.
enum Verdict {
    Forward(Query),
    Refuse(ResponseCode),
}

/// The second layer, of the policy: how a query that can be forwarded is handled for this sandbox.
enum Permission {
    /// The query is forwarded, and closed addresses are removed from the answer.
    Ask,
    /// As [`Self::Ask`], and the answer is cached for the slot's proxy.
    AskAndCache(DomainName),
    /// The query is answered at once and without records, as if the name had none of that type. This is no denial.
    EmptyAnswer,
    /// The query is refused, and the [`Denial`], the reason that all layers of the egress share, is written to the
    /// journal.
    Refuse(Denial),
}

impl SlotNameServer {
    /// Answers one query. Returns `None` for bytes that must not be answered.
    pub(super) async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let counters = &self.shared.counters;
        let Ok(request) = Message::from_vec(bytes) else {
            Counters::count(&counters.dropped);
            return malformed(bytes);
        };
        // To answer an answer would let two servers answer each other without end.
        if request.metadata.message_type != MessageType::Query {
            Counters::count(&counters.dropped);
            return None;
        }
        let mut response = response_to(&request);
        match check(&request) {
            Verdict::Refuse(code) => response.metadata.response_code = code,
            Verdict::Forward(query) => match self.name_policy() {
                // A slot of the pool, or one whose policy is being installed.
                None => response.metadata.response_code = ResponseCode::Refused,
                Some(name_policy) => self.answer_under(name_policy, &query, &mut response).await,
            },
        }
        Counters::count(&counters.answered);
        if response.metadata.response_code == ResponseCode::ServFail {
            Counters::count(&counters.failed);
        }
        encode(&response, limit(&request, transport, self.name_policy()))
    }

    async fn answer_under(&self, name_policy: &NamePolicy, query: &Query, response: &mut Message) {
        // The lower rate of `custom` counts only queries that would be forwarded: to refuse the others costs nothing,
        // and carries nothing out.
        let permission = match permission(&name_policy.evaluator, query) {
            Permission::AskAndCache(_) if !self.limits.within_custom_rate() => {
                Permission::Refuse(Denial::TooMany { what: "queries" })
            }
            permission => permission,
        };
        match permission {
            Permission::EmptyAnswer => {}
            Permission::Refuse(denial) => {
                name_policy.journal.deny(&denial);
                prohibit(response);
            }
            Permission::Ask => {
                self.shared.forward(query, response).await;
                self.filter(name_policy, response);
            }
            Permission::AskAndCache(name) => {
                self.shared.forward(query, response).await;
                self.filter(name_policy, response);
                if query.query_type() == RecordType::A {
                    let (addresses, ttl_s) = addresses_in(&response.answers);
                    self.cache_answered(name, addresses, ttl_s);
                }
            }
        }
    }

    /// Removes the closed addresses. A private one would tell the sandbox about the host's network, and an allowed name
    /// that leads to one is an attack (DNS rebinding).
    fn filter(&self, name_policy: &NamePolicy, response: &mut Message) {
        for denial in remove_closed(&name_policy.evaluator, &mut response.answers) {
            name_policy.journal.deny(&denial);
        }
    }
}

/// Returns the policy's decision about a query.
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
        // The types that ordinary clients ask for. NULL and the like serve tunnels above all.
        RecordType::A
        | RecordType::CNAME
        | RecordType::MX
        | RecordType::TXT
        | RecordType::SRV
        | RecordType::NS
        | RecordType::SOA
        | RecordType::CAA => Permission::AskAndCache(name),
        // IPv6 leaves no slot, and HTTPS records above all carry hints for HTTP/3 and encrypted hellos, which are
        // refused. An empty answer keeps clients from trying them; a refusal would make some of them give up the name.
        RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => Permission::EmptyAnswer,
        kind => Permission::Refuse(Denial::QueryType { name, kind: kind.to_string() }),
    }
}

fn prohibit(response: &mut Message) {
    response.metadata.response_code = ResponseCode::Refused;
    // Only a query with EDNS may get options in its answer (RFC 6891, 7).
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

    /// Asks the upstream. The answer is SERVFAIL if there is no name server to ask, too many queries are under way, or
    /// it does not answer in time.
    pub(super) async fn ask(&self, name: Name, kind: RecordType) -> (ResponseCode, Vec<Record>, Vec<Record>) {
        let failed = (ResponseCode::ServFail, vec![], vec![]);
        let (Some(forwarder), Ok(_permit)) = (self.upstream.forwarder(), self.queries.try_acquire()) else {
            return failed;
        };
        timeout(QUERY_DEADLINE, look_up(&forwarder, name, kind)).await.unwrap_or(failed)
    }
}

async fn look_up(forwarder: &TokioResolver, name: Name, kind: RecordType) -> (ResponseCode, Vec<Record>, Vec<Record>) {
    match forwarder.lookup(name, kind).await {
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

/// Checks that a query is one question of the Internet class. ANY (RFC 8482) and zone transfers are not offered to
/// sandboxes.
fn check(request: &Message) -> Verdict {
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

/// Returns an empty response with the query's id, question and flags, and with EDNS if the query has it.
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

/// Returns FORMERR for bytes that are no message, if they have an id and are not marked as a response.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let [high, low, flags, ..] = bytes else { return None };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([*high, *low]);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

/// Returns the longest answer in bytes: what the client says that it takes, within our own bounds.
fn limit(request: &Message, transport: Transport, name_policy: Option<&NamePolicy>) -> usize {
    let custom = name_policy.is_some_and(|name_policy| matches!(name_policy.evaluator.policy(), Policy::Custom(_)));
    match transport {
        // A tunnel in the answers for an allowed name is bounded in size as well as in rate.
        Transport::Tcp if custom => MAX_CUSTOM_ANSWER,
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => usize::from(request.max_payload().min(MAX_UDP_ANSWER)),
    }
}

/// Returns the answer's bytes, or those of an empty answer marked as truncated (TC), after which clients ask over TCP.
fn encode(response: &Message, limit: usize) -> Option<Vec<u8>> {
    let whole = response.to_vec().ok();
    match whole {
        Some(bytes) if bytes.len() <= limit => Some(bytes),
        _ => response.truncate().to_vec().ok(),
    }
}

/// Called by the fuzz target: runs a query through everything but the upstream, then takes the same bytes for an
/// upstream's answer.
pub(super) fn fuzz(bytes: &[u8], evaluator: &Evaluator) {
    let Ok(mut message) = Message::from_vec(bytes) else {
        malformed(bytes);
        return;
    };
    let mut response = response_to(&message);
    match check(&message) {
        Verdict::Refuse(code) => response.metadata.response_code = code,
        Verdict::Forward(query) => match permission(evaluator, &query) {
            Permission::AskAndCache(name) => assert!(evaluator.name(&name).is_ok(), "{name} is not allowed"),
            Permission::Refuse(_) => prohibit(&mut response),
            Permission::Ask | Permission::EmptyAnswer => {}
        },
    }
    let longest = limit(&message, Transport::Udp, None);
    let encoded = encode(&response, longest);
    assert!(encoded.is_none_or(|bytes| bytes.len() <= longest.max(512)), "an answer is longer than its asker takes");
    remove_closed(evaluator, &mut message.answers);
    let (addresses, _) = addresses_in(&message.answers);
    assert!(addresses.iter().all(|address| evaluator.address(*address).is_ok()), "an answer holds a closed address");
}
