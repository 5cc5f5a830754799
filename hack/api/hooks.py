"""What schemathesis cannot know of the signer. Values that the schema does not allow stay as they are."""

import re

import schemathesis

# Time that a request certainly has on a busy machine, ms.
PATIENCE_MS = 60_000
# What schemathesis adds to have a request that the schema does not describe. Unknown headers are ignored, as RFC 9110,
# section 5.1 wants; unknown fields and parameters are not.
UNKNOWN = "x-schemathesis-unknown-property"


@schemathesis.hook
def filter_case(_context, case):
    return UNKNOWN not in {name.lower() for name in case.headers or {}}


@schemathesis.hook
def map_case(_context, case):
    serve(case.query)
    serve(case.body)
    for name in list(case.headers or {}):
        value = str(case.headers[name])
        # A time that is allowed and too short is honestly answered 504.
        if name.lower() == "x-request-timeout-ms" and re.fullmatch(r"[0-9]{1,9}", value) and int(value) > 0:
            case.headers[name] = str(max(int(value), PATIENCE_MS))
    return case


def serve(values):
    """Which keyspaces a signer serves is its configuration's matter; one that is well formed becomes `default`."""
    keyspace = values.get("keyspace") if isinstance(values, dict) else None
    if isinstance(keyspace, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", keyspace):
        values["keyspace"] = "default"
