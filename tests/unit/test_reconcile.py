"""What is concluded from Nova's list of servers, and what is not."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import msgpack
import pytest

from bus_cache import names
from bus_cache.index.changes import Held, HostDeleted, InUse, NotInUse, Source
from bus_cache.index.writer import Usage
from consumers.nova_api import ApiError, Server
from consumers.reconcile import (
    MOST_FAILURES,
    SAMPLE,
    Absent,
    Picture,
    Use,
    compare,
    compare_unknown,
)

NOW = 1_700_000_000_000
IMAGE, OTHER = "image-1", "image-2"
RAW, OTHER_RAW = (bytes.fromhex(names.fingerprint(image)) for image in (IMAGE, OTHER))
SERVER = "b3e6bcd8-3c1e-4f2e-9d2b-5f9a3f6d8a01"
KEY = uuid.UUID(SERVER).bytes
USES = Use(IMAGE, holds=True)


def server(
    host: str = "cmp1",
    image: str = IMAGE,
    task: str | None = None,
    state: str = "active",
    launched: bool = True,
) -> Server:
    return Server(SERVER, host, image, task, state, launched)


def picture(*servers: Server, ignore: tuple[str, ...] = ()) -> Picture:
    drawn = Picture(ignore)
    for each in servers:
        drawn.add(each)
    return drawn


def row(left: int, *images: tuple[bytes, int]) -> bytes:
    flat = [value for image, stamp in images for value in (stamp, image)]
    flat = [left, b"", *flat] if left else flat
    packed: bytes = msgpack.packb(flat, use_bin_type=False)
    return packed


def usage(
    *held: bytes, uses: Mapping[bytes, bytes] | None = None, managed: bool = False, newest: int = 1
) -> Usage:
    return Usage(managed, dict.fromkeys(held, (1, 1)), dict(uses or {}), None, newest)


def changes(
    seen: Mapping[bytes, Use], index: Usage, moving: tuple[bytes, ...] = (), complete: bool = True
) -> list[object]:
    found = compare("cmp1", seen, index, NOW, moving=moving, complete=complete)
    return [each.change for each in found]


# -- what a server says ------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["active", "stopped", "paused", "rescued", "shelved", "resized"])
def test_a_settled_server_uses_its_image_and_its_host_has_fetched_it(state: str) -> None:
    assert picture(server(state=state)).hosts == {"cmp1": {KEY: USES}}


@pytest.mark.parametrize(
    "task", ["spawning", "rebuild_spawning", "resize_finish", "migrating", "unshelving"]
)
def test_of_a_busy_server_only_its_presence_is_believed(task: str) -> None:
    found = picture(server(task=task))
    assert found.hosts == {"cmp1": {KEY: Use("", False)}}
    assert found.moving == {KEY}


def test_a_server_in_error_uses_its_image_but_may_never_have_got_it() -> None:
    found = picture(server(state="error"))
    assert found.hosts == {"cmp1": {KEY: Use(IMAGE, False)}}
    assert found.moving == {KEY}


def test_a_server_that_never_ran_holds_nothing() -> None:
    found = picture(server(state="building", launched=False))
    assert found.hosts == {"cmp1": {KEY: Use(IMAGE, False)}}


def test_a_resized_server_may_have_its_disk_on_the_source() -> None:
    assert picture(server(state="resized")).moving == {KEY}
    assert picture(server()).moving == set()


def test_a_server_booted_from_a_volume_uses_no_image() -> None:
    assert picture(server(image="")).hosts == {"cmp1": {KEY: Use("", False)}}


def test_a_shelved_offloaded_server_is_nowhere() -> None:
    found = picture(server(host="", state="shelved_offloaded"))
    assert (found.hosts, found.moving, found.servers) == ({}, set(), 1)


def test_ignored_and_impossible_hosts_are_left_out() -> None:
    found = picture(server(host="ironic-1"), server(host="a host"), ignore=("ironic-*",))
    assert found.hosts == {}


def test_what_can_be_no_id_is_left_out() -> None:
    assert picture(Server("1", "cmp1", IMAGE, None, "active", True)).servers == 0
    assert picture(server(image="an image")).hosts == {"cmp1": {KEY: Use("", False)}}


# -- servers that Nova lists -------------------------------------------------------------------


def test_an_empty_index_is_told_all() -> None:
    assert changes({KEY: USES}, usage()) == [
        Held("cmp1", IMAGE, NOW, Source.SERVER),
        InUse("cmp1", SERVER, IMAGE, NOW),
    ]


def test_nothing_differs() -> None:
    index = usage(RAW, uses={KEY: row(0, (RAW, NOW - 1))})
    assert changes({KEY: USES}, index) == []


def test_an_image_that_no_server_uses_is_no_difference() -> None:
    assert changes({}, usage(RAW, OTHER_RAW)) == []


def test_one_image_of_many_servers_is_missing_once() -> None:
    seen = {uuid.uuid4().bytes: USES for _ in range(3)}
    found = [each for each in compare("cmp1", seen, usage(), NOW) if each.kind == "image_missing"]
    assert [each.listed for each in found] == ["used by 3 servers"]


def test_of_an_agents_host_only_the_servers_are_compared() -> None:
    assert changes({KEY: USES}, usage(managed=True)) == [InUse("cmp1", SERVER, IMAGE, NOW)]


def test_a_server_uses_another_image_than_the_index_knows() -> None:
    index = usage(RAW, uses={KEY: row(0, (OTHER_RAW, NOW - 1))})
    assert changes({KEY: USES}, index) == [InUse("cmp1", SERVER, IMAGE, NOW)]


def test_a_server_is_back_that_had_left() -> None:
    index = usage(RAW, uses={KEY: row(NOW - 1, (RAW, NOW - 2))})
    assert changes({KEY: USES}, index) == [InUse("cmp1", SERVER, IMAGE, NOW)]


@pytest.mark.parametrize(
    "newer", [row(NOW, (RAW, NOW - 2)), row(0, (OTHER_RAW, NOW)), row(NOW + 5, (RAW, NOW + 3))]
)
def test_what_the_index_heard_since_the_listing_began_is_left_alone(newer: bytes) -> None:
    assert changes({KEY: USES}, usage(RAW, uses={KEY: newer})) == []
    assert changes({}, usage(RAW, uses={KEY: newer})) == []


def test_a_broken_row_is_written_anew() -> None:
    index = usage(RAW, uses={KEY: b"\xc1 no msgpack"})
    assert changes({KEY: USES}, index) == [InUse("cmp1", SERVER, IMAGE, NOW)]


# -- servers that Nova does not list ---------------------------------------------------------------

GONE = {KEY: row(0, (RAW, NOW - 1))}


def test_a_server_that_is_not_there_leaves() -> None:
    assert changes({}, usage(RAW, uses=GONE)) == [NotInUse("cmp1", SERVER, NOW)]


def test_a_server_that_left_already_does_not_leave_again() -> None:
    assert changes({}, usage(RAW, uses={KEY: row(NOW - 1, (RAW, NOW - 2))})) == []


def test_a_server_that_may_be_on_two_hosts_does_not_leave() -> None:
    assert changes({}, usage(RAW, uses=GONE), moving=(KEY,)) == []


def test_a_busy_server_does_not_leave_the_host_that_it_is_on() -> None:
    assert changes({KEY: Use("", False)}, usage(RAW, uses=GONE)) == []


def test_nothing_leaves_while_a_cell_does_not_answer() -> None:
    assert changes({}, usage(RAW, uses=GONE), complete=False) == []


def test_what_can_be_no_server_is_left_alone() -> None:
    assert changes({}, usage(uses={b"short": row(0, (RAW, 1))})) == []


class Asked:
    """Answers by id whether a server is there; fails where it has no answer."""

    def __init__(self, answers: Mapping[str, bool]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def exists(self, server: str) -> bool:
        self.asked.append(server)
        if server not in self.answers:
            raise ApiError("a cell does not answer")
        return self.answers[server]


MANY = {uuid.uuid4().bytes: row(0, (RAW, NOW - 1)) for _ in range(20)}
IDS = [str(uuid.UUID(bytes=raw)) for raw in MANY]


def left(absent: Absent, seen: Mapping[bytes, Use] | None = None) -> set[str]:
    """Return who leaves a host on which the index has many servers."""
    found = absent.sure(list(compare("cmp1", seen or {}, usage(RAW, uses=MANY), NOW)))
    return {each.subject for each in found if each.kind == "server_gone"}


def test_a_few_servers_of_a_host_are_asked_for_before_all_leave() -> None:
    api = Asked(dict.fromkeys(IDS, False))
    absent = Absent(api, set())
    assert left(absent) == set(IDS)
    assert len(set(api.asked)) == len(api.asked) == SAMPLE
    assert absent.unsure == 0


def test_nobody_leaves_a_host_of_which_a_server_is_there_after_all() -> None:
    api = Asked(dict.fromkeys(IDS, True))
    absent = Absent(api, set())
    differences = list(compare("cmp1", {KEY: USES}, usage(uses=MANY), NOW))
    assert {each.kind for each in absent.sure(differences)} == {"image_missing", "server_missing"}
    assert (absent.unsure, len(api.asked)) == (1, 1)


def test_nobody_leaves_while_nova_fails_and_it_is_not_asked_for_long() -> None:
    api = Asked({})
    absent = Absent(api, set())
    for _ in range(MOST_FAILURES + 5):
        assert left(absent) == set()
    assert (absent.unsure, len(api.asked)) == (MOST_FAILURES + 5, MOST_FAILURES)


def test_who_is_listed_elsewhere_leaves_without_a_question() -> None:
    api = Asked({})
    assert left(Absent(api, set(MANY))) == set(IDS)
    assert api.asked == []
    one, *others = MANY
    api = Asked({str(uuid.UUID(bytes=one)): True})
    assert left(Absent(api, set(others))) == {str(uuid.UUID(bytes=raw)) for raw in others}


def test_a_shelved_server_is_listed_though_it_is_nowhere() -> None:
    assert picture(server(host="", state="shelved_offloaded")).listed == {KEY}


# -- hosts -------------------------------------------------------------------------------------


def test_a_host_without_compute_service_leaves() -> None:
    (drift,) = compare_unknown("cmp9", usage(RAW, newest=NOW - 1), NOW)
    assert drift.change == HostDeleted("cmp9", NOW)


def test_a_host_that_was_heard_of_since_stays() -> None:
    assert compare_unknown("cmp9", usage(RAW, newest=NOW), NOW) == []


def test_a_host_with_an_agent_is_told_of_and_stays() -> None:
    (drift,) = compare_unknown("cmp9", usage(managed=True), NOW)
    assert (drift.kind, drift.change) == ("host_gone", None)
