"""The addresses and names of the lab's little world. All of them exist in the lab's namespaces only."""

# The link between the host and the fake internet (TEST-NET-3, RFC 5737).
HOST_UPLINK = "203.0.113.2"
# The hardware address of the host's end: whatever leaves the host comes from it, also with a forged IP address.
HOST_MAC = "02:00:cb:00:71:02"
INTERNET_UPLINK = "203.0.113.1"
# A second address of the host, on the same link: its "office network".
HOST_LAN = "192.168.77.2"
LAN_NEIGHBOUR = "192.168.77.7"

DNS_SERVERS = ("1.1.1.1", "8.8.8.8")
EXAMPLE_COM = "93.184.216.34"
EXAMPLE_NET = "93.184.216.35"
# HTTPS with HTTP/2 and HTTP/1.1, and git.
API = "93.184.216.36"
WEBSOCKET = "93.184.216.37"
# Speaks first on port 22, and has no web server.
SSH = "93.184.216.38"
# Certificates that nobody should accept.
BAD_TLS = "93.184.216.39"
# Nothing listens there: connections are refused.
DEAD = "93.184.216.41"
# A stranger, with every kind of server, whom no test's policy names.
EVIL = "93.184.216.66"
PUBLIC = (
    *DNS_SERVERS,
    EXAMPLE_COM,
    EXAMPLE_NET,
    API,
    WEBSOCKET,
    SSH,
    BAD_TLS,
    DEAD,
    EVIL,
    "198.41.0.4",
)

# What a sandbox must never reach although the host can: the cloud's metadata, private and shared ranges.
METADATA = "169.254.169.254"
PRIVATE = ("10.201.0.5", "172.29.5.5", "100.101.0.5", LAN_NEIGHBOUR)
# One of them that the operator of the tests' server opens to policies that name it.
OPENED_BY_OPERATOR = PRIVATE[1]

# Nobody's addresses that a hostile name server may answer with.
LOOPBACK, LINK_LOCAL = "127.0.0.1", "169.254.7.7"

NAMES = {
    "example.com": (EXAMPLE_COM,),
    "www.example.com": (EXAMPLE_COM,),
    "deep.down.example.com": (EXAMPLE_COM,),
    "xn--bcher-kva.example": (EXAMPLE_COM,),
    "example.net": (EXAMPLE_NET,),
    "api.example.com": (API,),
    "git.example.com": (API,),
    # HTTPS without HTTP/2.
    "h1.example.com": (API,),
    "ws.example.com": (WEBSOCKET,),
    "ssh.example.com": (SSH,),
    "expired.example.com": (BAD_TLS,),
    "selfsigned.example.com": (BAD_TLS,),
    "wrongname.example.com": (BAD_TLS,),
    "many.example.com": (DEAD, EXAMPLE_COM),
    "six.example.com": (EXAMPLE_COM,),
    "ech.example.com": (EXAMPLE_COM,),
    "big.example.com": (EXAMPLE_COM,),
    "huge.example.com": (EXAMPLE_COM,),
    "evil.example.org": (EVIL,),
    "evilexample.com": (EVIL,),
    "rebind.example.org": (PRIVATE[0],),
    "private.example.com": (PRIVATE[0],),
    "opened.example.com": (OPENED_BY_OPERATOR,),
    "metadata.example.com": (METADATA,),
    "loopback.example.com": (LOOPBACK,),
    "linklocal.example.com": (LINK_LOCAL,),
    "host.example.com": (HOST_UPLINK,),
    "lan.example.com": (HOST_LAN,),
    "mixed.example.com": (PRIVATE[0], EXAMPLE_COM),
}
ALIASES = {
    # A chain over a name of somebody else's.
    "alias.example.com": "front.example.org",
    "front.example.org": "example.net",
    "private-alias.example.com": "rebind.example.org",
}
# Each name below it is public when it is asked for first, and private ever after.
FLIPPING = "flip.example.com"
# Below them everything exists, and carries what its labels say: a tunnel's far end.
TUNNELS = ("tunnel.example.com", "tunnel.example.org")
AAAA = {"six.example.com": "2606:2800:220:1::1"}

HTTP_PORT = 80
HTTPS_PORT = 443
ECHO_PORT = 7
SSH_PORT = 22
# 443 and 53 are what QUIC and other name servers would use.
UDP_ECHO_PORTS = (ECHO_PORT, 53, HTTPS_PORT, 5000)
BANNER = b"SSH-2.0-lab\r\n"
