"""One conversation by every dialect and way in, greedy: the same token ids, usage and end, in each one's words."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.real.conftest import Server
from tests.real.test_boto import boto
from tests.support.doors import Doors
from tests.support.talks import TALKS, differences


@pytest.fixture(scope="module")
def doors(parrot: Server) -> Iterator[Doors]:
    with closing(boto(parrot)) as runtime:
        yield Doors(parrot.port, runtime)


@pytest.mark.parametrize("name", TALKS)
def test_one_truth(doors: Doors, name: str) -> None:
    talk = TALKS[name]
    told = doors.ask(talk, nth=[*TALKS].index(name))
    wrong = {way: found for way, one in told.items() if (found := differences(one, told, talk))}
    assert not wrong
    assert told["chat"].ids
    assert told["chat"].prompt_ids
