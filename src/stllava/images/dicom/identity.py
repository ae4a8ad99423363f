"""Who belongs together, without saying who: salted hashes of patient and study.

HMAC-SHA256, cut to 80 bits: the same patient has the same hash under the same salt, and without the
salt nobody can try all hospital numbers. The salt is a secret and stands in no run directory.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from stllava.config import ImagesSection
from stllava.errors import DataError
from stllava.images.dicom.header import read_dataset, reading
from stllava.images.view import read_bytes

KEYWORDS = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")
MIN_SALT = 16  # bytes


class Identity(NamedTuple):
    """Salted hashes; None where the header says nothing."""

    group: str | None  # of the patient
    study: str | None


def dicom_identity(path: Path, salt: bytes) -> Identity:
    """Hashes of patient and study of a DICOM file. Raises DataError, MissingExtra."""
    return identity_of(read_bytes(path), path, salt)


def identity_of(data: bytes, path: Path, salt: bytes) -> Identity:
    """`dicom_identity` of bytes that were read already; `path` is for messages."""
    with reading(path):
        dataset = read_dataset(data, path, only=KEYWORDS)
        patient, issuer, study = (str(dataset.get(k) or "").strip(" \0") for k in KEYWORDS)
    # Two hospitals may give the same number; a patient without one is nobody's group.
    group = opaque(salt, "patient", f"{patient}\0{issuer}") if patient else None
    return Identity(group, opaque(salt, "study", study) if study else None)


def opaque(salt: bytes, kind: str, value: str) -> str:
    """`KIND-HASH`: equal for equal values, and no way back to them without the salt."""
    if len(salt) < MIN_SALT:
        raise DataError(f"the salt of images has {len(salt)} bytes; give {MIN_SALT} or more")
    digest = hmac.new(salt, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return f"{kind}-{digest.hexdigest()[:20]}"


def read_salt(options: ImagesSection) -> bytes:
    """The secret of the recipe's file or environment variable; else 32 sampled bytes.

    Hashes under sampled bytes agree within one `prepare` and with nothing else. Raises DataError.
    """
    if options.salt_file is not None:
        salt = read_bytes(Path(options.salt_file).expanduser()).strip()
        source = options.salt_file
    else:
        salt = os.environ.get(options.salt_env, "").encode().strip()
        source = f"environment variable {options.salt_env}"
        if not salt:
            return secrets.token_bytes(32)
    if len(salt) < MIN_SALT:
        raise DataError(f"{source}: a salt of {len(salt)} bytes; give {MIN_SALT} or more")
    return salt
