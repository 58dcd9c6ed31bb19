"""Marks of origin: found in the bytes of images, recorded, and verified by the C2PA library."""

import datetime as dt
import io
import json
import random
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dagster_imagegen import ImageGenResource
from dagster_imagegen.content_credentials import verify_credentials
from dagster_imagegen.engine.provenance import provenance
from dagster_imagegen.sandbox import Sandbox
from dagster_imagegen.sandbox.credentials import SOURCE_TYPE, with_credentials
from dagster_imagegen.sandbox.pictures import encode

FORMATS = ("png", "jpeg", "webp")
BOTH = "c2pa iptc:trainedAlgorithmicMedia"


def picture(image_format: str) -> bytes:
    return encode(Image.new("RGB", (64, 64), "red"), image_format)


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


@pytest.mark.parametrize("image_format", FORMATS)
def test_marks_are_found_in_each_format(image_format: str):
    plain = picture(image_format)
    marked = with_credentials(plain)
    assert provenance(plain) == "none"
    assert provenance(marked) == BOTH
    with Image.open(io.BytesIO(marked)) as image:
        image.load()  # The marks are no damage.


def test_each_mark_is_told_apart_and_what_only_looks_like_one_is_none():
    plain = picture("png")
    first = 8 + 25
    box = struct.pack(">I", 8) + b"jumb"

    def png(*chunks: bytes) -> bytes:
        return plain[:first] + b"".join(chunks) + plain[first:]

    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<a:DigitalSourceType>" + SOURCE_TYPE.encode()
    assert provenance(png(chunk(b"caBX", box))) == "c2pa"
    assert provenance(png(chunk(b"iTXt", xmp))) == "iptc:trainedAlgorithmicMedia"
    assert provenance(png(chunk(b"caBX", b"anything"))) == "none"
    assert provenance(png(chunk(b"tEXt", b"Comment\0caBX c2pa " + SOURCE_TYPE.encode()))) == "none"


def test_formats_in_which_nothing_is_looked_for_are_null():
    assert provenance(b"GIF89a" + bytes(20)) is None
    assert provenance(b"no image") is None


@pytest.mark.parametrize("image_format", FORMATS)
def test_damaged_bytes_never_raise(image_format: str):
    """Cut anywhere, and with bytes flipped."""
    marked = with_credentials(picture(image_format))
    dice = random.Random(image_format)
    for at in range(0, len(marked), 7):
        provenance(marked[:at])
        damaged = bytearray(marked)
        for _ in range(3):
            damaged[dice.randrange(12, len(damaged))] = dice.randrange(256)
        provenance(damaged)


def test_hostile_bytes_take_no_time():
    """Empty chunks and marks that never end, 20 MB of them: less time than it takes to hash them.

    CPU time, and with room: without the bounds it would be many seconds.
    """
    head = b"\x89PNG\r\n\x1a\n"
    hostile = (
        head + chunk(b"aaaa", b"") * (20_000_000 // 12),
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5_000_000,
        b"\xff\xd8" + b"\xff" * 20_000_000,
        head + chunk(b"iTXt", b"XML:com.adobe.xmp\0" + b"DigitalSourceType " * 1_100_000),
        b"RIFF\0\0\0\0WEBP" + b"XMP \0\0\0\0" * 2_500_000,
    )
    before = time.process_time()
    for data in hostile:
        assert provenance(data) == "none"
    assert time.process_time() - before < 5


def test_what_is_found_is_on_record(tmp_path: Path):
    """In the usage table and the image table; the bytes are those that the endpoint sent."""
    with Sandbox(paint=False, credentials=True) as sandbox:
        resource = ImageGenResource(
            base_url=sandbox.base_url, model="openai-gpt-image-1", storage_uri=str(tmp_path)
        )
        images = resource.generate_many(["a mug"], output_format="webp")
    (found,) = resource.usage().to_pylist()
    assert found["image_provenance"] == BOTH
    assert images["image_provenance"].to_pylist() == [BOTH]
    data = (tmp_path / found["image_path"]).read_bytes()
    assert provenance(data) == BOTH
    assert len(data) == found["image_size_bytes"]


# -- the extra `c2pa` --------------------------------------------------------------------------


def test_unsigned_credentials_are_invalid_and_none_are_none():
    """The sandbox's are where the library looks for them, and it says what they lack."""
    for image_format in FORMATS:
        plain = picture(image_format)
        assert verify_credentials(plain).state == "none"
        found = verify_credentials(with_credentials(plain))
        assert found.state == "invalid"
        assert found.problem


def test_signed_credentials_are_valid_for_exactly_these_bytes():
    signed = sign(picture("png"))
    found = verify_credentials(signed)
    assert (found.state, found.problem) == ("valid", None)
    assert found.signer == "A Model"
    assert provenance(signed) == BOTH
    at = signed.rindex(b"IDAT") + 8
    changed = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
    assert verify_credentials(changed).state == "invalid"


def sign(image: bytes) -> bytes:
    """The image with credentials of a certificate authority of our own."""
    import c2pa

    chain, key = certificates()
    manifest = {
        "claim_generator_info": [{"name": "tests", "version": "1"}],
        "format": "image/png",
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]},
            }
        ],
    }
    info: Any = c2pa.C2paSignerInfo(b"es256", chain, key, None)
    out = io.BytesIO()
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest)) as builder:
        builder.sign(signer, "image/png", io.BytesIO(image), out)
    return out.getvalue()


def certificates() -> tuple[bytes, bytes]:
    """A chain of two, as PEM, and the key of the first."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = dt.datetime.now(dt.timezone.utc)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
            ]
        )
        for name in ("A Model", "An Authority")
    ]
    usages = [dict.fromkeys(USAGES, False) | {"digital_signature": True}]
    usages.append(dict.fromkeys(USAGES, False) | {"key_cert_sign": True, "crl_sign": True})
    chain = b""
    for at in (0, 1):
        made = (
            x509.CertificateBuilder()
            .subject_name(names[at])
            .issuer_name(names[1])
            .public_key(keys[at].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=at == 1, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usages[at]), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[1].public_key()),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(keys[at].public_key()), critical=False
            )
        )
        if at == 0:
            email = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            made = made.add_extension(email, critical=False)
        chain += made.sign(keys[1], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    key = keys[0].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return chain, key


USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
