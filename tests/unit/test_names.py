"""Names: what Nova calls a cached image, what may be a name at all, and that no two keys meet."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nova.virt.libvirt import imagecache
from redis.crc import key_slot

from bus_cache import names

PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
HOSTS = st.text(PRINTABLE, min_size=1, max_size=255)
KEYSPACES = st.from_regex(r"[A-Za-z0-9_.-]{1,40}", fullmatch=True)
FINGERPRINTS = st.from_regex(r"[0-9a-f]{40}", fullmatch=True)


@settings(deadline=None)
@given(image_id=st.text(PRINTABLE, min_size=1, max_size=255))
def test_a_fingerprint_is_the_name_of_novas_file(image_id: str) -> None:
    """Nova's own function says the same."""
    assert names.fingerprint(image_id) == imagecache.get_cache_fname(image_id)
    assert names.is_fingerprint(names.fingerprint(image_id))


@pytest.mark.parametrize(
    "text",
    ["", "a" * 39, "a" * 41, "A" * 40, "g" * 40, "a" * 40 + "\n", " " + "a" * 39, "\u0660" * 40],
)
def test_what_is_no_fingerprint(text: str) -> None:
    """Forty lower-case hex digits and nothing else."""
    assert not names.is_fingerprint(text)


@settings(deadline=None)
@given(text=st.one_of(HOSTS, st.text(max_size=300)))
def test_a_name_is_printable_ascii_without_spaces(text: str) -> None:
    """Said in another way than by the pattern."""
    valid = 1 <= len(text) <= 255 and all(0x20 < ord(c) < 0x7F for c in text)
    assert names.is_valid_name(text) is valid


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "a b", "a\n", "\na", "a\0", "a\x7f", "h\u00f6st", "a" * 256, "\ud800", "\u2028"),
        *(None, 1, True, 1.5, b"host", ["host"], {"host": 1}),
    ],
)
def test_what_is_no_name(value: object) -> None:
    """Neither what could break a key, nor what is no text."""
    assert names.is_valid_name(value) is False


@pytest.mark.parametrize("keyspace", ["bus_cache", "a", "region-1.cell_2", "0", "a" * 200])
def test_a_keyspace_is_the_first_part_of_every_key(keyspace: str) -> None:
    """The public key is as documented."""
    image = names.fingerprint("3edc76bb-a136-4b55-8b24-9f13c25c2878")
    assert names.Keys(keyspace).image(image) == f"{{{keyspace}}}:image:{image}"


@pytest.mark.parametrize(
    "keyspace", ["", " ", "a b", "a:b", "a\n", "{a}", "}", "a*", "ä", "a\0", "a/b"]
)
def test_what_is_no_keyspace(keyspace: str) -> None:
    """Above all nothing that would end or move the hash tag."""
    with pytest.raises(ValueError, match=re.escape(repr(keyspace))):
        names.Keys(keyspace)


@settings(deadline=None)
@given(keyspace=KEYSPACES, hosts=st.lists(HOSTS), images=st.lists(FINGERPRINTS))
def test_all_keys_of_a_keyspace_share_a_slot_and_are_distinct(
    keyspace: str, hosts: list[str], images: list[str]
) -> None:
    """Whatever a host is called, its key is no other's: also with braces and colons in it."""
    keys = names.Keys(keyspace)
    found = [keys.schema, keys.images, keys.hosts]
    found += [f"{keys.prefix}gone:image:{image}" for image in set(images)]
    found += [f"{keys.prefix}gone:host:{host}" for host in set(hosts)]
    found += [keys.image(image) for image in set(images)]
    found += [keys.host(host) for host in set(hosts)]
    assert len(found) == len(set(found))
    assert {key_slot(key.encode()) for key in found} == {key_slot(keyspace.encode())}
