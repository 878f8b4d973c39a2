"""A program on a workload's machine, as one in Python is: its identity comes through PyPI's `spiffe`, its TLS through
`spiffe-tls`. It prints what it got, one JSON line each; a refusal is printed, and fails.

    program.py SOCKET UID x509 STATES
    program.py SOCKET UID token AUDIENCE
    program.py SOCKET UID validate AUDIENCE TOKEN
    program.py SOCKET UID call HOST:PORT PEER
"""

import json
import os
import queue
import sys

from spiffe import JwtSvid, SpiffeId, WorkloadApiClient, X509Source
from spiffetls import ClientTlsMode, dial
from spiffetls.tlsconfig.authorize import authorize_id

PATIENCE = 60.0


def say(**values):
    print(json.dumps(values), flush=True)


def x509(socket, states):
    client = WorkloadApiClient(socket)
    told = queue.Queue()
    client.stream_x509_contexts(told.put, told.put, retry_connect=False)
    for _ in range(int(states)):
        state = told.get(timeout=PATIENCE)
        if isinstance(state, Exception):
            raise state
        svid = state.default_svid
        bundle = state.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        for authority in bundle.x509_authorities:
            svid.leaf.verify_directly_issued_by(authority)
        say(
            id=str(svid.spiffe_id),
            serial=format(svid.leaf.serial_number, "x"),
            ends=int(svid.leaf.not_valid_after_utc.timestamp()),
        )


def token(socket, audience):
    client = WorkloadApiClient(socket, default_timeout=PATIENCE)
    svid = client.fetch_jwt_svid({audience})
    bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    read = JwtSvid.parse_and_validate(svid.token, bundle, {audience})
    try:
        JwtSvid.parse_and_validate(svid.token, bundle, {"somebody.else"})
        raise RuntimeError("the token was good for somebody else")
    except RuntimeError:
        raise
    except Exception:
        pass
    say(id=str(read.spiffe_id), token=svid.token)


def validate(socket, audience, text):
    client = WorkloadApiClient(socket, default_timeout=PATIENCE)
    say(id=str(client.validate_jwt_svid(text, audience).spiffe_id))


def call(socket, address, peer):
    with X509Source(socket_path=socket, timeout_in_seconds=PATIENCE) as source:
        stream = dial(address, source, ClientTlsMode.TLS, authorize_id(SpiffeId(peer)))
        say(answer=stream.recv(4096).decode().strip())


def main():
    path, uid, what, *words = sys.argv[1:]
    # All that is imported may lie where another user does not get to.
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    try:
        {"x509": x509, "token": token, "validate": validate, "call": call}[what]("unix://" + path, *words)
    except Exception as refusal:
        print(repr(refusal), refusal.__cause__, file=sys.stderr)
        sys.exit(1)


main()
