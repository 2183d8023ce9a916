"""Seals and opens secrets; the only module that imports `cryptography`.

A sealed secret is `v1 | key id (4) | nonce (12) | ciphertext and tag (16)`, AES-256-GCM. The
associated data is product, version, the secret's uid and type, so bytes that are changed or
moved to another row don't open. Everything that a SECRET_KEY is used for comes out of
HKDF-SHA256 with the installation's salt, one purpose each; the key itself touches no data.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from teckochecker.domain import SealedSecret, Secret, SecretType
from teckochecker.errors import ConfigError, VaultError

_PRODUCT = "teckochecker"
_VERSION = "v1"
_MARK = _VERSION.encode()
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12  # what GCM is built for; random, so good for 2^32 sealings with one key
_TAG_BYTES = 16
_HEAD_BYTES = len(_MARK) + _KEY_ID_BYTES
_MIN_BYTES = _HEAD_BYTES + _NONCE_BYTES + _TAG_BYTES

_MIN_KEY_CHARS = 32
_MIN_KEY_DISTINCT = 8
# Parts of what stands in examples and templates, compared in lower case without `-`, `_` and
# blanks. A random key of 43 characters holds one of them about once in 10^9.
_PLACEHOLDERS = (
    "changein",
    "changeit",
    "changeme",
    "changethis",
    "mysecret",
    "placeholder",
    "replaceme",
    "replacethis",
    "supersecret",
    "yourkey",
    "yoursecret",
)


def new_key() -> str:
    """A SECRET_KEY: 32 random bytes in URL-safe base64."""
    return secrets.token_urlsafe(32)


def new_salt() -> bytes:
    """The salt of a new installation: it isn't secret, and never changes."""
    return secrets.token_bytes(16)


def new_uid() -> str:
    """The name that a secret is sealed under: made before its row, never used again."""
    return secrets.token_hex(16)


def refuse_weak_key(key: str) -> None:
    """Raise ConfigError for a SECRET_KEY that can be guessed, or that an example shows."""
    bare = key.lower().translate({ord(char): None for char in "-_ "})
    if not key.strip():
        fault = "is not set"
    elif any(word in bare for word in _PLACEHOLDERS):
        fault = "is a placeholder from an example"
    elif len(key) < _MIN_KEY_CHARS:
        fault = f"is shorter than {_MIN_KEY_CHARS} characters"
    elif len(set(key)) < _MIN_KEY_DISTINCT:
        fault = f"has fewer than {_MIN_KEY_DISTINCT} different characters"
    else:
        return
    raise ConfigError(f"SECRET_KEY {fault}: run `teckochecker init`, which makes a good one.")


class Vault:
    """Seals with the current key, opens with the current or the old one.

    It holds no connection and no lock: threads may share it.
    """

    def __init__(self, key: Secret, *, salt: bytes, old_key: Secret | None = None) -> None:
        self._current = _Key(key, salt)
        self._keys = (self._current,) if old_key is None else (self._current, _Key(old_key, salt))
        self.key_id = self._current.id.hex()

    def seal(self, uid: str, type_: SecretType, value: Secret) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        ciphertext = self._current.cipher.encrypt(nonce, _encode(value), _bound_to(uid, type_))
        return _MARK + self._current.id + nonce + ciphertext

    def open(self, secret: SealedSecret) -> Secret:
        """The value; VaultError when no key fits, or the bytes aren't the ones sealed for it."""
        cipher = self._key_of(secret).cipher
        nonce, ciphertext = _split(secret.sealed)
        try:
            plain = cipher.decrypt(nonce, ciphertext, _bound_to(secret.uid, secret.type))
        except InvalidTag as error:
            raise _damaged(secret) from error
        return Secret(plain.decode(errors="surrogatepass"))

    def reseal(self, secret: SealedSecret) -> bytes:
        """The same value sealed with the current key."""
        return self.seal(secret.uid, secret.type, self.open(secret))

    def check_value(self) -> bytes:
        """Bytes that only the current key gives, to be stored beside what it seals.

        Always the same for one key and salt, and no help in finding either the key or a value.
        """
        return self._current.proof

    def verify(self, check_value: bytes) -> None:
        """Raise ConfigError unless the current or the old key gave this check value.

        The old one is right too: a rotation that was interrupted left its check value behind.
        """
        if not any(secrets.compare_digest(key.proof, check_value) for key in self._keys):
            raise ConfigError(
                "SECRET_KEY isn't the key that this database was written with: set SECRET_KEY to "
                "that key, or, after a rotation, SECRET_KEY_OLD to it beside the new SECRET_KEY."
            )

    def _key_of(self, secret: SealedSecret) -> _Key:
        sealed = secret.sealed
        if len(sealed) < _MIN_BYTES or not sealed.startswith(_MARK):
            raise _damaged(secret)
        key_id = sealed[len(_MARK) : _HEAD_BYTES]
        for key in self._keys:
            if key.id == key_id:
                return key
        raise VaultError(
            f'The secret "{secret.name}" was sealed with another key (id {key_id.hex()}): set '
            "SECRET_KEY_OLD to that key and restart, or enter the value again with "
            "`teckochecker secret set`."
        )


class _Key:
    """What one SECRET_KEY gives on one installation; the parts tell nothing of each other."""

    __slots__ = ("cipher", "id", "proof")

    def __init__(self, key: Secret, salt: bytes) -> None:
        material = _encode(key)
        self.id = _derive(material, salt, "key id", _KEY_ID_BYTES)
        self.proof = _derive(material, salt, "check value", 32)
        self.cipher = AESGCM(_derive(material, salt, "data key", 32))


def _derive(material: bytes, salt: bytes, purpose: str, size_bytes: int) -> bytes:
    info = f"{_PRODUCT} {_VERSION} {purpose}".encode()
    return HKDF(algorithm=SHA256(), length=size_bytes, salt=salt, info=info).derive(material)


def _encode(text: Secret) -> bytes:
    # A lone surrogate, as an environment that isn't UTF-8 gives, must not raise here: the
    # UnicodeEncodeError would carry the value.
    return text.reveal().encode(errors="surrogatepass")


def _bound_to(uid: str, type_: SecretType) -> bytes:
    return "\0".join((_PRODUCT, _VERSION, uid, type_)).encode()


def _split(sealed: bytes) -> tuple[bytes, bytes]:
    body = sealed[_HEAD_BYTES:]
    return body[:_NONCE_BYTES], body[_NONCE_BYTES:]


def _damaged(secret: SealedSecret) -> VaultError:
    return VaultError(
        f'The secret "{secret.name}" can\'t be opened: its bytes were changed, or belong to '
        "another secret. Enter the value again with `teckochecker secret set`, or restore a backup."
    )
