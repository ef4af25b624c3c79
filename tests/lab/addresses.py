"""The addresses of the lab's little world. All of them exist in the lab's namespaces only."""

# The link between the host and the fake internet (TEST-NET-3, RFC 5737).
HOST_UPLINK = "203.0.113.2"
INTERNET_UPLINK = "203.0.113.1"
# A second address of the host, on the same link: its "office network".
HOST_LAN = "192.168.77.2"
LAN_NEIGHBOUR = "192.168.77.7"

DNS_SERVERS = ("1.1.1.1", "8.8.8.8")
EXAMPLE_COM = "93.184.216.34"
EXAMPLE_NET = "93.184.216.35"
PUBLIC = (*DNS_SERVERS, EXAMPLE_COM, EXAMPLE_NET, "198.41.0.4")

# What a sandbox must never reach although the host can: the cloud's metadata, private and shared ranges.
METADATA = "169.254.169.254"
PRIVATE = ("10.201.0.5", "172.29.5.5", "100.101.0.5", LAN_NEIGHBOUR)

NAMES = {
    "example.com": EXAMPLE_COM,
    "www.example.com": EXAMPLE_COM,
    "example.net": EXAMPLE_NET,
    "rebind.example.org": PRIVATE[0],
}

HTTP_PORT = 80
ECHO_PORT = 7
