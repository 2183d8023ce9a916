from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teckochecker.domain import SealedSecret, Secret, SecretId, SecretType, replace
from teckochecker.errors import ConfigError, VaultError
from teckochecker.vault import Vault, new_key, new_salt, new_uid, refuse_weak_key

repeatable = settings(derandomize=True, deadline=None)

KEY = Secret("kkkkkkkk0123456789abcdefghijklmnopqrstuv")
OTHER_KEY = Secret("another-0123456789abcdefghijklmnopqrstuv")
SALT = bytes(range(16))
OTHER_SALT = bytes(range(1, 17))
UID = "00112233445566778899aabbccddeeff"
VALUE = Secret("sk-žluť")

ANY_TEXT = st.text(alphabet=st.characters())  # lone surrogates too
TYPES = st.sampled_from(SecretType)


def vault(key: Secret = KEY, old_key: Secret | None = None, salt: bytes = SALT) -> Vault:
    return Vault(key, salt=salt, old_key=old_key)


def row(
    sealed: bytes, uid: str = UID, type_: SecretType = SecretType.OPENAI, name: str = "prod"
) -> SealedSecret:
    return SealedSecret(
        id=SecretId(1),
        uid=uid,
        name=name,
        type=type_,
        sealed=sealed,
        updated_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def sealed_row(by: Vault, value: Secret = VALUE) -> SealedSecret:
    return row(by.seal(UID, SecretType.OPENAI, value))


@repeatable
@given(value=ANY_TEXT, uid=st.text(), type_=TYPES)
def test_it_opens_what_it_sealed(value: str, uid: str, type_: SecretType) -> None:
    sealed = vault().seal(uid, type_, Secret(value))
    assert vault().open(row(sealed, uid, type_)).reveal() == value


def test_it_opens_what_the_first_release_sealed() -> None:
    sealed = bytes.fromhex(
        "7631c5d00b1525112f84e82fa5cb34e750bbd1c18b0c930f385d0c722a251837a710128963cb333b5ad94d"
    )
    assert vault().open(row(sealed)).reveal() == VALUE.reveal()


def test_it_gives_the_check_value_and_key_id_of_the_first_release() -> None:
    check_value = "598c2758ad9015d318e6ef34927c9bcaa97936e45b81e806ab1a71d5e68fca74"
    assert vault().check_value().hex() == check_value
    assert vault().key_id == "c5d00b15"


@repeatable
@given(value=ANY_TEXT)
def test_it_writes_version_key_id_nonce_ciphertext_and_tag(value: str) -> None:
    sealed = vault().seal(UID, SecretType.GENERIC, Secret(value))
    assert sealed[:2] == b"v1"
    assert sealed[2:6].hex() == vault().key_id
    assert len(sealed) == 2 + 4 + 12 + len(value.encode(errors="surrogatepass")) + 16


def test_it_never_seals_a_value_twice_to_the_same_bytes() -> None:
    one, two = (vault().seal(UID, SecretType.OPENAI, VALUE) for _ in range(2))
    assert one[6:18] != two[6:18]
    assert one[18:] != two[18:]


@repeatable
@given(value=st.text(max_size=20), flip=st.integers(1, 255))
def test_it_refuses_a_change_of_any_byte(value: str, flip: int) -> None:
    mine = vault()
    secret = sealed_row(mine, Secret(value))
    for index in range(len(secret.sealed)):
        changed = bytearray(secret.sealed)
        changed[index] ^= flip
        with pytest.raises(VaultError, match='"prod"'):
            mine.open(row(bytes(changed)))


def test_it_refuses_bytes_that_were_cut_or_continued() -> None:
    mine = vault()
    sealed = mine.seal(UID, SecretType.OPENAI, VALUE)
    for changed in (*(sealed[:size] for size in range(len(sealed))), sealed + b"\0"):
        with pytest.raises(VaultError, match='"prod"'):
            mine.open(row(changed))


@repeatable
@given(sealed=st.binary(max_size=80))
def test_it_refuses_bytes_that_nobody_sealed(sealed: bytes) -> None:
    with pytest.raises(VaultError, match='"prod"'):
        vault().open(row(sealed))


def test_it_refuses_bytes_that_were_moved_to_another_row() -> None:
    mine = vault()
    one, two = ((uid, mine.seal(uid, SecretType.OPENAI, VALUE)) for uid in (new_uid(), new_uid()))
    for uid, sealed in ((one[0], two[1]), (two[0], one[1])):
        with pytest.raises(VaultError, match="belong to another secret"):
            mine.open(row(sealed, uid))


@repeatable
@given(sealed_as=TYPES, opened_as=TYPES)
def test_it_opens_a_secret_only_as_the_type_it_was_sealed_as(
    sealed_as: SecretType, opened_as: SecretType
) -> None:
    secret = row(vault().seal(UID, sealed_as, VALUE), type_=opened_as)
    if sealed_as is opened_as:
        assert vault().open(secret).reveal() == VALUE.reveal()
    else:
        with pytest.raises(VaultError):
            vault().open(secret)


def test_it_says_which_key_is_missing_and_what_to_do() -> None:
    with pytest.raises(VaultError) as caught:
        vault(OTHER_KEY).open(sealed_row(vault()))
    message = str(caught.value)
    assert '"prod"' in message
    assert vault().key_id in message
    assert "SECRET_KEY_OLD" in message
    assert "teckochecker secret set" in message


@pytest.mark.parametrize("opener", [vault(OTHER_KEY), vault(salt=OTHER_SALT)])
def test_it_opens_nothing_with_another_key_or_salt(opener: Vault) -> None:
    with pytest.raises(VaultError):
        opener.open(sealed_row(vault()))


def test_it_tries_no_other_key_than_the_one_that_the_bytes_name() -> None:
    both = vault(OTHER_KEY, old_key=KEY)
    sealed = bytearray(vault().seal(UID, SecretType.OPENAI, VALUE))
    sealed[2:6] = bytes.fromhex(both.key_id)
    with pytest.raises(VaultError):
        both.open(row(bytes(sealed)))


def test_it_says_nothing_of_keys_and_values_in_errors_and_reprs() -> None:
    mine = vault()
    damaged = replace(sealed_row(mine), uid=new_uid())
    with pytest.raises(VaultError) as moved:
        mine.open(damaged)
    with pytest.raises(VaultError) as foreign:
        vault(OTHER_KEY).open(sealed_row(mine))
    said = f"{moved.value!r} {foreign.value!r} {mine!r} {vars(mine)}"
    for hidden in (KEY, OTHER_KEY, VALUE):
        assert hidden.reveal() not in said


def test_a_rotated_vault_opens_old_secrets_and_seals_with_the_new_key() -> None:
    rotated = vault(OTHER_KEY, old_key=KEY)
    assert rotated.open(sealed_row(vault())).reveal() == VALUE.reveal()
    assert vault(OTHER_KEY).open(sealed_row(rotated)).reveal() == VALUE.reveal()


def test_resealing_frees_a_secret_from_the_old_key() -> None:
    rotated = vault(OTHER_KEY, old_key=KEY)
    old = sealed_row(vault())
    new = replace(old, sealed=rotated.reseal(old))
    assert vault(OTHER_KEY).open(new).reveal() == VALUE.reveal()


def test_resealing_what_no_key_opens_names_the_secret() -> None:
    with pytest.raises(VaultError, match='"prod"'):
        vault(OTHER_KEY).reseal(sealed_row(vault()))


@pytest.mark.parametrize(
    "verifier", [vault(), vault(OTHER_KEY, old_key=KEY), vault(KEY, old_key=OTHER_KEY)]
)
def test_it_accepts_the_check_value_of_the_current_and_of_the_old_key(verifier: Vault) -> None:
    verifier.verify(vault().check_value())


@pytest.mark.parametrize("verifier", [vault(OTHER_KEY), vault(salt=OTHER_SALT)])
def test_it_refuses_a_database_of_another_key_in_one_line(verifier: Vault) -> None:
    with pytest.raises(ConfigError) as caught:
        verifier.verify(vault().check_value())
    message = str(caught.value)
    assert "SECRET_KEY isn't the key" in message
    assert "SECRET_KEY_OLD" in message
    assert "\n" not in message


@repeatable
@given(check_value=st.binary(max_size=40))
def test_it_refuses_a_check_value_that_no_key_gave(check_value: bytes) -> None:
    with pytest.raises(ConfigError):
        vault().verify(check_value)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", "is not set"),
        (" \t\n" * 20, "is not set"),
        ("your-secret-key-for-encryption", "placeholder"),
        ("Your_Secret_Key_For_Encryption_1234567890", "placeholder"),
        ("changeme", "placeholder"),
        ("CHANGE-ME-0123456789abcdefghijklmnop", "placeholder"),
        ("secret", "shorter than 32"),
        ("0123456789abcdefghijklmnopqrstu", "shorter than 32"),
        ("secret" * 10, "fewer than 8 different"),
        ("abcdefg" * 10, "fewer than 8 different"),
    ],
)
def test_it_refuses_a_weak_key_and_names_the_command_that_helps(key: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_weak_key(key)
    message = str(caught.value)
    assert fault in message
    assert "teckochecker init" in message


def test_it_never_repeats_the_key_that_it_refuses() -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_weak_key("hunter2-hunter2")
    assert "hunter2" not in str(caught.value)


def test_it_accepts_the_shortest_key_that_is_good_enough() -> None:
    refuse_weak_key("abcdefgh" * 4)


def test_a_new_key_is_32_random_bytes_and_strong() -> None:
    key = new_key()
    assert len(key) == 43
    refuse_weak_key(key)
    assert key != new_key()


def test_new_salts_and_uids_are_of_128_bits_and_never_repeat() -> None:
    assert len(new_salt()) == 16
    assert len(bytes.fromhex(new_uid())) == 16
    assert len({new_uid() for _ in range(100)} | {new_salt() for _ in range(100)}) == 200
