#!/usr/bin/env python3
"""An application that signs over HTTP, with Python's standard library alone.

Makes a key, has its birth proved before it is used, signs a digest, has the signature verified.
With --key-id it signs with a key that exists. What matters for an application of yours is `Signer.call`:
when to send a request again, when not to, and how long to wait.
"""

import argparse
import hashlib
import http.client
import json
import random
import secrets
import subprocess
import sys
import time
import urllib.parse

BACKOFF_MAX_S = 2.0
JITTER = 0.2


class Refused(Exception):
    """An answer that a retry does not change, or none within our own time."""


class Signer:
    """One connection to a signer. Connections are kept: a new one for each request costs more than the signature."""

    def __init__(self, url, wait_s):
        self.address = urllib.parse.urlsplit(url)
        self.wait_s = wait_s
        self.connection = None

    def call(self, path, body):
        """Sends `body` until the answer is final. Safe for `sign`, which is deterministic, and for `create`
        with an idempotencyKey: the same request has the same outcome, however often it arrives."""
        deadline = time.monotonic() + self.wait_s
        growth = 1.0
        while True:
            status, answer = self.once(path, body, deadline)
            if status == 200:
                return answer
            hint_ms = answer.get("retryAfterMs")
            if hint_ms is None:
                # Only answers with a hint may be different next time. All others say what is wrong.
                raise Refused(f"{answer['code']}: {answer['detail']} (field {answer.get('field')}, "
                              f"request {answer['requestId']})")
            # The hint is already spread, so the first wait is the hint; then twice as long each time.
            wait_s = min(hint_ms / 1000 * growth, BACKOFF_MAX_S)
            if growth > 1:
                wait_s *= random.uniform(1 - JITTER, 1 + JITTER)
            if time.monotonic() + wait_s >= deadline:
                raise Refused(f"gave up: {answer['code']} (unlock {answer.get('unlockRequestId')}, "
                              f"request {answer['requestId']})")
            print(f"{answer['code']}: again in {wait_s * 1000:.0f} ms", file=sys.stderr, flush=True)
            time.sleep(wait_s)
            growth *= 2

    def once(self, path, body, deadline):
        """One exchange: the status, and the answer's JSON."""
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        headers = {"content-type": "application/json", "x-request-timeout-ms": str(left_ms)}
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.address.hostname, self.address.port,
                                                             timeout=left_ms / 1000)
            self.connection.request("POST", path, json.dumps(body), headers)
            response = self.connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            # The outcome is unknown: a connection was closed while it was idle, or the process restarted.
            self.connection = None
            return 0, {"code": "no answer", "detail": str(error), "retryAfterMs": 100, "requestId": None}


def verify(arguments, created, more):
    """Checks the birth statement, and what `more` names, with the offline verifier: no network, no trust in the
    signer or in anybody between."""
    command = [arguments.verifier, "ctl", "verify-key", "/dev/stdin", "--root", arguments.root,
               "--measurements", arguments.measurements, "--public-key", created["publicKey"], *more]
    done = subprocess.run(command, input=json.dumps(created), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"NOT VERIFIED, do not use this key: {done.stdout or done.stderr}")


def create(signer, arguments):
    """A new key whose birth statement repeats a challenge of ours, so that it cannot be an older one."""
    challenge = secrets.token_hex(32)
    request = {"idempotencyKey": secrets.token_hex(16), "challenge": challenge}
    created = signer.call("/create", request)
    verify(arguments, created, ["--challenge", challenge])
    return created


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--wait", type=float, default=30, metavar="SECONDS", help="our own patience")
    parser.add_argument("--text", default="pay 1 coin to alice", help="its SHA-256 is signed")
    parser.add_argument("--key-id", help="sign with this key")
    parser.add_argument("--verifier", default="sigil-dataplane", help="the program that verifies")
    parser.add_argument("--root", required=True, help="root certificate of attestation")
    parser.add_argument("--measurements", required=True, help="measurements.json of the accepted image")
    arguments = parser.parse_args()
    signer = Signer(arguments.url, arguments.wait)
    digest = hashlib.sha256(arguments.text.encode()).hexdigest()
    try:
        if arguments.key_id:
            signed = signer.call("/sign", {"keyId": arguments.key_id, "digest": digest})
        else:
            created = create(signer, arguments)
            signed = signer.call("/sign", {"keyId": created["keyId"], "digest": digest})
            verify(arguments, created, ["--digest", digest, "--signature", signed["signature"]])
    except Refused as refused:
        sys.exit(str(refused))
    print(json.dumps({**signed, "digest": digest}))


if __name__ == "__main__":
    main()
