"""A throw-away certificate authority, for tests that speak TLS to a private server."""

from dataclasses import dataclass
from pathlib import Path

import trustme

from deploy.local.ports import HOST


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files of a server certificate for loopback and of the authority that signed it."""

    ca: Path
    certificate: Path
    key: Path


def issue(directory: Path, *names: str) -> Certificate:
    """A new authority and a certificate for loopback (and `names`) written under `directory`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "localhost", *names)
    files = Certificate(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(files.ca)
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(files.key)
    files.key.chmod(0o600)
    return files
