"""Only the holder of a known key is anybody."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import KEYS_HASH, KeyHasher, KeyTable, read_secret
from gateway.errors import Unauthenticated
from gateway.stores import RedisStore
from gateway.types import Limits
from tests.gateway.conftest import Gateway

HASHER = KeyHasher(b"s" * 32)
DEFAULT = Limits(600, 1000)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def table_with(name: str = "ivr") -> tuple[KeyTable, str]:
    made = HASHER.create(name, now="2026-01-01T00:00:00+00:00", limits=Limits(5, None), models=["a"])
    return KeyTable(HASHER, [made.stored], None, DEFAULT), made.plain


async def test_the_holder_of_a_key_is_its_caller_with_its_own_limits() -> None:
    table, plain = table_with()
    caller = await table.authenticate(b"Bearer " + plain.encode())
    assert (caller.name, caller.limits) == ("ivr", Limits(5, 1000))
    assert caller.may_use("a")
    assert not caller.may_use("b")


@given(st.none() | st.binary(max_size=600))
async def test_no_other_header_ever_gives_a_caller(header: bytes | None) -> None:
    table, _ = table_with()
    with pytest.raises(Unauthenticated):
        await table.authenticate(header)


@given(st.binary(min_size=0, max_size=100), st.integers(0, 60))
async def test_a_key_changed_in_any_way_gives_no_caller(noise: bytes, place: int) -> None:
    table, plain = table_with()
    raw = plain.encode()
    changed = raw[:place] + noise + raw[place + 1 :]
    if changed.strip() != raw:
        with pytest.raises(Unauthenticated):
            await table.authenticate(b"Bearer " + changed)


def test_what_is_stored_shows_no_key() -> None:
    made = HASHER.create("ivr", now="", limits=Limits(None, None))
    assert made.plain not in repr(made)
    assert made.plain.split("-", 2)[2] not in msgspec.json.encode(made.stored).decode()


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeyHasher(b"short")


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "deep" / "key-secret"
    assert read_secret(path) == read_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_new_key_in_redis_is_known_at_once_and_a_revoked_one_is_refused_after_the_refresh(
    redis_url: str,
) -> None:
    store, clock = RedisStore(redis_url), Clock()
    table = KeyTable(HASHER, [], store, DEFAULT, clock)
    made = HASHER.create("ivr", now="", limits=Limits(None, None))
    await store.write_hash(KEYS_HASH, made.stored.id, msgspec.json.encode(made.stored))
    header = b"Bearer " + made.plain.encode()
    assert (await table.authenticate(header)).key_id == made.stored.id
    await store.delete_from_hash(KEYS_HASH, made.stored.id)
    clock.now += 3
    await table.authenticate(header)  # the refresh runs beside the request
    await table.aclose()
    await table.refresh()
    with pytest.raises(Unauthenticated):
        await table.authenticate(header)
    await store.aclose()


async def test_known_keys_stay_known_while_redis_is_away() -> None:
    store = RedisStore("redis://127.0.0.1:1/0", timeout_s=0.2)
    made = HASHER.create("ivr", now="", limits=Limits(None, None))
    table = KeyTable(HASHER, [made.stored], store, DEFAULT)
    await table.refresh()
    assert (await table.authenticate(b"Bearer " + made.plain.encode())).name == "ivr"
    with pytest.raises(Unauthenticated):
        await table.authenticate(b"Bearer cg-unknown")
    await table.aclose()
    await store.aclose()


async def test_the_gateway_tells_a_stranger_nothing_but_401(gateway: Gateway) -> None:
    for header in ("", "Bearer ", "Bearer x", "Basic dGVzdA==", "Bearer ' OR 1=1 --"):
        for path in ("/v1/chat/completions", "/v1/completions"):
            status, body, response = await gateway.post(path, {}, headers={"authorization": header})
            assert (status, body["error"]["type"], response.headers["www-authenticate"]) == (
                401,
                "authentication_error",
                "Bearer",
            )
        async with gateway.session.get(gateway.url + "/v1/models", headers={"authorization": header}) as models:
            assert models.status == 401
