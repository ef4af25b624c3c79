"""The fake internet: real servers with chosen answers on public-looking addresses, in a network namespace of their own.

    __main__     addresses, then every server in one event loop; `internet.ready` when all listen
      ├─ names        DNS over UDP and TCP: chosen answers, and tunnels, rebinding, ECH hints
      ├─ web          what is answered; http1 and http2 carry it, with TLS of `certificates`; git over HTTPS in `git`
      ├─ websocket    echo
      └─ sockets      TCP and UDP echo, and a server that speaks first
    journal      what they saw, a JSON line each: `internet-requests.jsonl` and `internet-questions.jsonl`

All of them are lenient: what the product lets through must be seen, however malformed it is.
"""
