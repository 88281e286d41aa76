"""The tables of ``make lab-churn``: they say what the samples say, no more and no less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.lab.churn_tables import Image, Images, Inferred, Sample, followed, inferred

KEYSPACE = "any"
BOUND = 5.0


def samples(disk: str, claimed: str, used: str = "") -> list[Sample]:
    """Each character is the moment of one second: the image is there (or not: a dot)."""
    used = used or "." * len(disk)
    return [
        Sample(float(at), images(there), images(use), {KEYSPACE: images(claim)})
        for at, (there, claim, use) in enumerate(zip(disk, claimed, used, strict=True))
    ]


def images(letters: Iterable[str]) -> Images:
    return Images(Image("host", letter) for letter in letters if letter != ".")


def judged(
    disk: str,
    claimed: str,
    used: str = "",
    deleted: float | None = None,
    down: Sequence[tuple[str, float, float]] = (),
) -> Inferred:
    times = {} if deleted is None else {"a": deleted}
    said = samples(disk, claimed, used)
    return inferred(said, KEYSPACE, BOUND, "kind of {}".format, times, down)


def lengths(found: Inferred) -> dict[str, list[float]]:
    """What was wrong, and for how long; nothing where nothing was."""
    all_kinds = (
        *("gone_used", "gone_untold", "gone_unused", "gone_deleted"),
        *("too_long", "invented"),
    )
    spans = {kind: [span.seconds for span in getattr(found, kind)] for kind in all_kinds}
    return {kind: seconds for kind, seconds in spans.items() if seconds}


def test_what_follows_within_a_second_is_equal() -> None:
    found = followed(samples("..aaaa...", "...aaaa.."), KEYSPACE)
    assert (found.longest, found.late, found.changes) == (1.0, [], 2)
    assert (found.seconds, found.equal) == (8.0, 6.0)
    assert found.reached


def test_what_follows_later_is_late() -> None:
    found = followed(samples("..aaaa....", "....aaaaa."), KEYSPACE)
    assert (found.longest_missing, found.longest_extra) == (2.0, 3.0)
    assert [span.seconds for span in found.late] == [2.0, 3.0]
    assert not found.reached


def test_what_an_agent_could_not_tell_while_it_was_dead_does_not_count() -> None:
    """But what it did not tell within a second after it was back does; and what another's did."""
    said = samples("..aaaaaaaa", "........aa")
    assert [span.seconds for span in followed(said, KEYSPACE).late] == [6.0]
    found = followed(said, KEYSPACE, [("host", 1.0, 7.0), ("host", 8.5, 9.0)])
    assert (found.reached, found.longest, found.dead) == (True, 1.0, [6.0, 0.5])
    assert followed(said, KEYSPACE, [("host", 1.0, 6.0)]).longest == 2.0
    assert followed(said, KEYSPACE, [("other", 1.0, 9.0)]).longest == 6.0


def test_a_difference_at_the_end_counts() -> None:
    assert not followed(samples(".aaaa", "....."), KEYSPACE).reached


def test_an_image_learned_late_and_dropped_in_time_is_well_inferred() -> None:
    found = judged("..aaaaaa...", "....aaaa...", ".....aaa...")
    assert not lengths(found)
    assert (found.lives, found.learned, found.reached) == (1, [2.0], True)


def test_claimed_gone_while_used() -> None:
    found = judged("aaaaaaaaaa", "aaa...aaaa", "aaaaaaaaaa")
    assert lengths(found) == {"gone_used": [3.0]}
    assert not found.reached


def test_claimed_gone_and_used_again_before_it_is_claimed_again() -> None:
    assert lengths(judged("aaaaaaaaaa", "aaa....aaa", "a....aaaaa")) == {"gone_used": [4.0]}


def test_a_claim_that_ended_before_the_files_return_was_told() -> None:
    """It was right about the file's earlier stay; who uses the file then ends that excuse."""
    found = judged("aaaa...aaaaaaaa", "aaaaaaaaa....aa", "aa.........aaaa")
    assert lengths(found) == {"gone_untold": [4.0], "too_long": [3.0]}
    assert found.reached
    found = judged("aaaa...aaaaaaaa", "aaaaaaaaa....aa", "aa.......aaaaaa")
    assert "gone_used" in lengths(found)
    assert not found.reached


def test_claimed_gone_while_unused_is_no_missed_goal() -> None:
    found = judged("aaaaaaaaaa", "aaa.......", "a.........")
    assert lengths(found) == {"gone_unused": [6.0]}
    assert found.reached


def test_what_glance_has_deleted_is_gone_for_all_who_boot() -> None:
    found = judged("aaaaaaaaaa", "aaa.......", "aaaaaaaaaa", deleted=3.0)
    assert lengths(found) == {"gone_deleted": [6.0]}
    assert found.reached


def test_held_too_long() -> None:
    assert judged("aaa.......", "aaaaaaa...").reached
    found = judged("aaa........", "aaaaaaaaa..")
    assert lengths(found) == {"too_long": [6.0]}
    assert not found.reached


def test_the_time_for_which_the_host_was_down_does_not_count() -> None:
    found = judged("aaa.........", "aaaaaaaaaa..", down=[("host", 4.0, 7.0), ("other", 0.0, 9.0)])
    assert lengths(found) == {"too_long": [4.0]}
    assert [span.seconds for span in found.too_long_down] == [7.0]
    assert found.reached


def test_held_until_it_came_back() -> None:
    found = judged("aaa...aaaa", "aaaaaaaaaa")
    assert lengths(found) == {"too_long": [3.0]}
    assert found.lives == 2


def test_claimed_though_never_there() -> None:
    assert lengths(judged("..........", "...aaa....")) == {"invented": [3.0]}
    assert lengths(judged("aa........", "aa...aaa..")) == {"invented": [3.0]}


def test_never_claimed() -> None:
    found = judged("aaa.aaa...", "aa........")
    assert found.never == {"kind of a": 1}
    assert not lengths(found)
