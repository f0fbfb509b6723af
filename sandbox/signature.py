"""Verification of AWS's Signature Version 4.

Checks signatures in headers, of whole bodies. Presigned URLs, chunked signing and SigV4A are refused as unsigned.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
import time
from calendar import timegm
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from sandbox.server import Request

SKEW = 15 * 60  # the largest allowed difference of a client's clock in seconds, as at AWS
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/([0-9]{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request,"
    r"\s*SignedHeaders=([a-z0-9;-]+),\s*Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Signature:
    """The content of the Authorization header, not yet verified."""

    access_key: str
    date: str
    region: str
    service: str
    signed_headers: str
    digest: str


def read(request: Request) -> Signature | None:
    """The signature in the Authorization header; None if the request has no SigV4 signature."""
    match = _HEADER.fullmatch(request.headers.get("authorization", ""))
    return Signature(*match.groups()) if match else None


@functools.lru_cache(maxsize=1024)
def _key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _canonical_query(query: str) -> str:
    pairs = [(quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(query, keep_blank_values=True)]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def complaint(request: Request, signature: Signature, secret: str) -> str | None:
    """None if the signature is valid, else AWS's message."""
    stamp = request.headers.get("x-amz-date", "")
    try:
        sent = timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
    # Real time, not the sandbox's movable clock, because the client uses real time.
    if abs(sent - time.time()) > SKEW or not stamp.startswith(signature.date):
        return f"Signature expired: {stamp} is now earlier than the allowed 15 min."
    names = signature.signed_headers.split(";")
    headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names)
    path = request.path if request.path == "/" else quote(unquote(request.path), safe="/-_.~%")
    canonical = "\n".join(
        (
            request.method,
            path,
            _canonical_query(request.query) if request.query else "",
            headers,
            signature.signed_headers,
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{signature.date}/{signature.region}/{signature.service}/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
    key = _key(secret, signature.date, signature.region, signature.service)
    if hmac.compare_digest(hmac.digest(key, to_sign.encode(), "sha256").hex(), signature.digest):
        return None
    return (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method. Consult the service documentation for details."
    )
