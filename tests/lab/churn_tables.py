"""What a run of ``make lab-churn`` comes to: pure functions from samples to two tables.

A sample says at one moment which images lay on the hosts' disks, which of them their servers used,
and which ones each keyspace's public sets said that they hold. An image here is one on one host.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: Seconds for which the sets may differ from the disks: an index that follows events can't be
#: faster than its messages.
GRACE = 1.0


class Image(NamedTuple):
    """An image on a host."""

    host: str
    fingerprint: str


#: Images at one moment.
Images = frozenset[Image]


class Sample(NamedTuple):
    """One moment; ``at`` is seconds since 1970."""

    at: float
    disk: Images
    used: Images
    sets: Mapping[str, Images]


class Span(NamedTuple):
    """Something that was so for an image, from a sample on to the first one without it."""

    image: Image
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def spans(samples: Sequence[Sample], images_of: Callable[[Sample], Images]) -> Iterator[Span]:
    """Each image's stays among ``images_of`` the samples; the last sample ends all of them."""
    since: dict[Image, float] = {}
    for sample in samples:
        now = images_of(sample) if sample is not samples[-1] else Images()
        for image in since.keys() - now:
            yield Span(image, since.pop(image), sample.at)
        for image in now - since.keys():
            since[image] = sample.at


# -- with agents


@dataclass(frozen=True)
class Followed:
    """How well a keyspace followed the disks.

    Differences while a host's agent was dead do not count; the seconds that were equal do not
    leave them out.
    """

    seconds: float
    equal: float
    longest: float
    changes: int
    #: Differences that lasted longer than :data:`GRACE`.
    late: list[Span]
    #: Whether the longest ones were images that the sets lacked, or images that they had too many.
    longest_missing: float
    longest_extra: float
    #: For how long each agent that was killed was dead, until its next one had told all.
    dead: list[float] = field(default_factory=list)

    @property
    def missed(self) -> list[tuple[str, Span]]:
        """What was against the goal."""
        return [("different", span) for span in self.late]

    @property
    def reached(self) -> bool:
        return not self.missed


def followed(
    samples: Sequence[Sample], keyspace: str, dead: Sequence[tuple[str, float, float]] = ()
) -> Followed:
    """Compare a keyspace's sets with the disks at every moment.

    :param dead: hosts whose agent did not run, from when and until when it had told all again.
    """
    seconds = samples[-1].at - samples[0].at
    pairs = list(itertools.pairwise(samples))
    unequal = sum(after.at - now.at for now, after in pairs if now.disk != now.sets[keyspace])
    lacking = spans(samples, lambda sample: sample.disk - sample.sets[keyspace])
    surplus = spans(samples, lambda sample: sample.sets[keyspace] - sample.disk)
    missing, extra = ([_alive(span, dead) for span in found] for found in (lacking, surplus))
    longest_missing = max((span.seconds for span in missing), default=0.0)
    longest_extra = max((span.seconds for span in extra), default=0.0)
    return Followed(
        seconds=seconds,
        equal=seconds - unequal,
        longest=max(longest_missing, longest_extra),
        changes=sum(len(now.disk ^ after.disk) for now, after in pairs),
        late=[span for span in (*missing, *extra) if span.seconds > GRACE],
        longest_missing=longest_missing,
        longest_extra=longest_extra,
        dead=[end - start for _, start, end in dead],
    )


def _alive(span: Span, dead: Sequence[tuple[str, float, float]]) -> Span:
    """A span without the time for which its host's agent was dead."""
    times = (Span(span.image, *when) for host, *when in dead if host == span.image.host)
    return span._replace(end=span.end - sum(max(0.0, _common(span, each)) for each in times))


# -- without


@dataclass
class Inferred:
    """How well a keyspace guessed what it could not see."""

    #: Seconds that an image may be held too long.
    bound: float
    #: How often an image came, and went.
    lives: int = 0
    #: Claimed gone while the file was there: and a server used it, or none did, or it was deleted
    #: in Glance, where nobody can boot from it any more.
    gone_used: list[Span] = field(default_factory=list)
    #: The same, but the claim was of an earlier stay of the file, and ended before anybody used
    #: this one and before its arrival was told: caching in advance is told at its end.
    gone_untold: list[Span] = field(default_factory=list)
    gone_unused: list[Span] = field(default_factory=list)
    gone_deleted: list[Span] = field(default_factory=list)
    #: Still claimed after the file had gone, less the time for which the host was down.
    too_long: list[Span] = field(default_factory=list)
    #: Still claimed after the file had gone, while the host was down: what it removed just before
    #: nobody can know.
    too_long_down: list[Span] = field(default_factory=list)
    #: Claimed while there was no file, and not because one had been there.
    invented: list[Span] = field(default_factory=list)
    #: From the file's arrival to the claim.
    learned: list[float] = field(default_factory=list)
    #: Images that were there and never claimed, by what they were.
    never: dict[str, int] = field(default_factory=dict)

    @property
    def missed(self) -> list[tuple[str, Span]]:
        """What was against a goal, and which one."""
        return [
            *(("claimed gone while used", span) for span in self.gone_used),
            *(("held too long", span) for span in self.too_long if span.seconds > self.bound),
        ]

    @property
    def reached(self) -> bool:
        return not self.missed


def inferred(
    samples: Sequence[Sample],
    keyspace: str,
    bound: float,
    kind_of: Callable[[str], str],
    deleted: Mapping[str, float],
    down: Sequence[tuple[str, float, float]] = (),
) -> Inferred:
    """Compare a keyspace's sets with the lives of the files on the disks.

    :param bound: seconds that an image may be claimed after its file has gone.
    :param kind_of: what an image is, by its fingerprint, for those that are never claimed.
    :param deleted: when images were deleted in Glance, by their fingerprints.
    :param down: hosts whose nova-compute did not run, from when and until when; nothing is
        predicted of them meanwhile.
    """
    found = Inferred(bound)
    claims: dict[Image, list[Span]] = {}
    for span in spans(samples, lambda sample: sample.sets[keyspace]):
        claims.setdefault(span.image, []).append(span)
    lives: dict[Image, list[Span]] = {}
    for life in spans(samples, lambda sample: sample.disk):
        lives.setdefault(life.image, []).append(life)
    uses: dict[Image, list[Span]] = {}
    for span in spans(samples, lambda sample: sample.used):
        uses.setdefault(span.image, []).append(span)
    over = samples[-1].at

    for image, own in sorted(lives.items()):
        for life in own:
            found.lives += 1
            mine = [each for each in claims.get(image, []) if _meet(each, life)]
            if not mine:
                kind = kind_of(image.fingerprint)
                found.never[kind] = found.never.get(kind, 0) + 1
                continue
            if mine[0].start >= life.start:
                found.learned.append(mine[0].start - life.start)
            ends = [each.start for each in mine[1:]] + [life.end]
            for claim, until in zip(mine, ends, strict=True):
                gap = Span(image, claim.end, until)
                if gap.seconds <= GRACE:
                    continue
                if deleted.get(image.fingerprint, over) < gap.end:
                    found.gone_deleted.append(gap)
                    continue
                during = [each for each in uses.get(image, []) if _common(each, gap) > GRACE]
                used_then = any(each.start <= gap.start + GRACE for each in during)
                if during and claim.start < life.start and not used_then:
                    found.gone_untold.append(gap)
                elif during:
                    found.gone_used.append(gap)
                else:
                    found.gone_unused.append(gap)

    for image, claimed in sorted(claims.items()):
        own = lives.get(image, [])
        for claim in claimed:
            for gap in _outside(claim, own):
                if gap.seconds <= GRACE:
                    continue
                if not any(life.end == gap.start for life in own):
                    found.invented.append(gap)
                    continue
                times = [Span(image, *when) for host, *when in down if host == image.host]
                rested = sum(max(0.0, _common(gap, each)) for each in times)
                found.too_long.append(Span(image, gap.start, gap.end - rested))
                if rested:
                    found.too_long_down.append(gap)
    return found


def _common(one: Span, other: Span) -> float:
    """Seconds that two spans have in common."""
    return min(one.end, other.end) - max(one.start, other.start)


def _meet(one: Span, other: Span) -> bool:
    return _common(one, other) > 0


def _outside(claim: Span, lives: Sequence[Span]) -> Iterator[Span]:
    """The parts of a claim in which the file was not there."""
    start = claim.start
    for life in lives:
        if not _meet(claim, life):
            continue
        if life.start > start:
            yield Span(claim.image, start, life.start)
        start = max(start, life.end)
    if start < claim.end:
        yield Span(claim.image, start, claim.end)


# -- for people


def table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Two columns under a title."""
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def verdict(reached: bool) -> str:
    return "yes" if reached else "NO"


def followed_table(found: Followed) -> str:
    return table(
        "With agents: the sets and the disks",
        [
            ("seconds compared", f"{found.seconds:.0f}"),
            ("seconds equal", f"{found.equal:.1f} ({100 * found.equal / found.seconds:.2f} %)"),
            ("changes of the disks seen", f"{found.changes}"),
            ("longest difference", f"{found.longest:.2f} s"),
            ("  an image was missing", f"{found.longest_missing:.2f} s"),
            ("  an image was too many", f"{found.longest_extra:.2f} s"),
            (f"differences over {GRACE:.0f} s", f"{len(found.late)}"),
            (
                "agents killed",
                f"{len(found.dead)}, all told again after at most {max(found.dead):.1f} s"
                if found.dead
                else "0",
            ),
            (f"goal: equal within {GRACE:.0f} s, always", verdict(found.reached)),
        ],
    )


def inferred_table(found: Inferred) -> str:
    held = [span.seconds for span in found.too_long]
    learned = found.learned
    never = ", ".join(f"{count} x {kind}" for kind, count in sorted(found.never.items()))
    return table(
        "Without an agent: the sets, inferred from Nova's notifications, and the disks",
        [
            ("images that came", f"{found.lives}"),
            ("claimed gone while a server used it", f"{len(found.gone_used)}"),
            ("  the same, of a file whose return was not told yet", _lengths(found.gone_untold)),
            ("claimed gone though still there, unused", _lengths(found.gone_unused)),
            ("claimed gone as deleted in Glance, still there", _lengths(found.gone_deleted)),
            ("held too long, while the host was up", _lengths(found.too_long)),
            ("  the whole time of those whose host was down", _lengths(found.too_long_down)),
            ("claimed though never there", _lengths(found.invented)),
            (
                "claimed after the file was there",
                f"median {statistics.median(learned):.1f} s, longest {max(learned):.1f} s"
                if learned
                else "-",
            ),
            ("never claimed", never or "0"),
            ("goal: never claimed gone while used", verdict(not found.gone_used)),
            (
                f"goal: held too long for at most {found.bound:.0f} s",
                verdict(max(held, default=0.0) <= found.bound),
            ),
        ],
    )


def _lengths(found: Sequence[Span]) -> str:
    if not found:
        return "0"
    seconds = [span.seconds for span in found]
    return f"{len(found)}, median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s"
